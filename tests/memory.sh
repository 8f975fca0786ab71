#!/bin/sh
# memory.sh - $MI (./mi) when memory ends, at every allocation of a dozen command lines: status 1 and one
# line, nothing on stdout, no file; never a crash. Needs Linux; takes minutes, so it is not part of
# make test: MI=build/mi sh tests/memory.sh. MI_MEMORY_STEP=10 tries every tenth allocation.
mi=${MI:-./mi}
case $mi in /*) ;; *) mi=$PWD/$mi ;; esac
cc=${CC:-cc}
tests=$(cd "$(dirname "$0")" && pwd)
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
trap 'exit 1' HUP INT TERM
if [ "$(uname)" != Linux ] || grep -q __asan_init "$mi"; then
    echo "memory: not tried (needs Linux, and a build without sanitizers)"
    echo "== all"
    echo "1 passed, 0 failed"
    exit
fi
mkdir "$dir/work"
MI_MODEL=$tests/golden/odd7.safetensors
LC_ALL=C
export MI_MODEL LC_ALL
$cc -O1 -w -shared -fPIC -DPRELOAD "$tests/memory.c" -o "$dir/fail.so" -ldl &&
$cc -O1 -w "$tests/memory.c" -o "$dir/memory" || { echo "0 passed, 1 failed"; exit 1; }
echo "== all"
cd "$dir" && ./memory "$mi" "$dir/fail.so"
