#!/bin/sh
# make gpt2, from a local file: whole, resumed, with the wrong content, and from nowhere.
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
passed=0 failed=0
check() { # NAME CONDITION...
    name=$1
    shift
    if "$@"; then passed=$((passed + 1)); else
        failed=$((failed + 1))
        echo "FAIL make gpt2: $name"
    fi
}
sum() { { sha256sum "$1" 2>/dev/null || shasum -a 256 "$1"; } | cut -d' ' -f1; }
fetch() { sh "$root/train/fetch.sh" "file://$work/there" 200000 "$1" "$work/here" >"$work/log" 2>&1; }

if command -v curl >/dev/null && curl --version | grep -q file; then
    head -c 200000 "$root/tokenizer.bin" >"$work/there"
    right=$(sum "$work/there")
    check "downloads" fetch "$right"
    check "has the file's bytes" cmp -s "$work/there" "$work/here"
    check "leaves no part" test ! -e "$work/here.part"
    rm "$work/here"
    head -c 70000 "$work/there" >"$work/here.part"
    check "resumes" fetch "$right"
    check "has the file's bytes after resuming" cmp -s "$work/there" "$work/here"
    rm "$work/here"
    check "refuses another file" sh -c '! "$@"' - sh "$root/train/fetch.sh" "file://$work/there" 200000 "0$right" "$work/here"
    check "gives it no name" test ! -e "$work/here"
    rm -f "$work/here.part" "$work/there"
    check "fails without a source" sh -c '! "$@" 2>/dev/null' - sh "$root/train/fetch.sh" "file://$work/there" 200000 "$right" "$work/here"
fi >"$work/out" 2>&1
grep FAIL "$work/out"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
