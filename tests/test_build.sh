#!/bin/sh
# Builds that would break the promise of bits, or take NaN for a number, do not compile.
cd "$(dirname "$0")/.." || exit 1
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
CC=${CC:-cc} passed=0 failed=0
compiles() { $CC -std=gnu11 -w "$@" -fsyntax-only -DMI_NO_MAIN mi.c >"$dir/log" 2>&1; }
for flags in -O3 "-O3 -fno-math-errno"; do
    if compiles $flags; then passed=$((passed + 1)); else
        failed=$((failed + 1))
        echo "FAIL $CC $flags: $(head -1 "$dir/log")"
    fi
done
for flags in "-O3 -ffast-math" -Ofast -ffinite-math-only; do
    if ! compiles $flags && grep -q "same bits" "$dir/log"; then passed=$((passed + 1)); else
        failed=$((failed + 1))
        echo "FAIL $CC $flags: is accepted, or does not say why not: $(head -1 "$dir/log")"
    fi
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
