#!/bin/sh
# test_builds.sh - the same bits from every build: compilers, optimization, vector widths. Builds
# that fuse a*b + c into one rounding agree with each other, and so do those that cannot.
#
#     sh tests/test_builds.sh         a few builds (part of make test; MI_TEST_BUILDS=0: none)
#     sh tests/test_builds.sh all     every compiler with every flag
#     sh tests/test_builds.sh arm     NEON under qemu-aarch64 (make test-arm)
cd "$(dirname "$0")/.." || exit 1
cc=${CC:-cc}
passed=0 failed=0
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
trap 'exit 1' HUP INT TERM
[ "${MI_TEST_BUILDS:-1}" != 0 ] || { echo "1 passed, 0 failed"; exit; }

# GROUP RUN-WITH COMPILER FLAGS...: build and run bits.c; the first of a group is its reference.
agrees() {
    group=$1 with=$2
    shift 2
    if ! "$@" -std=gnu11 -w -DMI_NO_MAIN -I. tests/bits.c mi.c -o "$dir/bits" -lm 2>"$dir/log"; then
        failed=$((failed + 1))
        echo "FAIL $*: does not compile: $(head -n 1 "$dir/log")"
    elif ! $with "$dir/bits" >"$dir/lines" 2>&1; then
        failed=$((failed + 1))
        echo "FAIL $*: does not run: $(tail -n 1 "$dir/lines")"
    elif [ ! -e "$dir/$group" ]; then
        mv "$dir/lines" "$dir/$group"
        echo "$*" >"$dir/$group.name"
        passed=$((passed + 1))
    elif cmp -s "$dir/lines" "$dir/$group"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAIL $*: other bits than $(cat "$dir/$group.name"), first in" \
             "$(diff "$dir/$group" "$dir/lines" | sed -n 's/^> \(.*\) .*/\1/p' | head -n 1)"
    fi
}

can() { echo 'int main(void){return 0;}' | "$@" -x c - -o "$dir/can" 2>/dev/null; }
has_avx2() { grep -q avx2 /proc/cpuinfo 2>/dev/null && grep -q fma /proc/cpuinfo; }
has_avx512() { grep -q avx512f /proc/cpuinfo 2>/dev/null; }
clang=
if can clang && ! $cc --version 2>/dev/null | grep -q clang; then clang=clang; fi

case ${1:-few} in
few)
    if has_avx2; then
        agrees fused "" $cc -O2 -mavx2 -mfma
        agrees fused "" $cc -O0 -march=native
        agrees fused "" $cc -O3 -march=native
        if can $cc -flto; then agrees fused "" $cc -O2 -flto -march=native; fi
        if [ $clang ]; then agrees fused "" $clang -O2 -march=native; fi
    fi
    agrees plain "" $cc -O1
    agrees plain "" $cc -O3
    if [ $clang ]; then agrees plain "" $clang -O2; fi
    ;;
all)
    for compiler in $cc $clang; do
        for level in -O0 -O1 -O2 -O3 "-O3 -flto"; do
            can $compiler $level || continue
            if has_avx2; then agrees fused "" $compiler $level -mavx2 -mfma; fi
            if has_avx512; then agrees fused "" $compiler $level -mavx2 -mfma -mavx512f; fi
            if has_avx2; then agrees fused "" $compiler $level -march=native; fi
            agrees plain "" $compiler $level
        done
    done
    ;;
arm)
    arm=aarch64-linux-gnu
    if ! command -v qemu-aarch64 >/dev/null || ! can $arm-gcc -static || ! has_avx2; then
        echo "arm: not tried (needs AVX2, qemu-aarch64 and $arm-gcc: qemu-user, gcc-$arm)"
        echo "== all"
        echo "0 passed, 0 failed"
        exit
    fi
    agrees fused "" $cc -O2 -mavx2 -mfma
    if [ $clang ]; then agrees fused "" $clang -O2 -mavx2 -mfma; fi
    agrees fused qemu-aarch64 $arm-gcc -O2 -static
    agrees fused qemu-aarch64 $arm-gcc -O0 -static
    if can clang --target=$arm -static; then
        agrees fused qemu-aarch64 clang --target=$arm -O2 -static
    fi
    echo "== all"
    ;;
esac
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
