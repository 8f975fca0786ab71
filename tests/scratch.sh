# scratch.sh - what the tests of $MI (./mi) in shell share; each begins with ". tests/scratch.sh", in
# the repository root. $mi is the program, $dir an empty folder that goes when the test ends; ok and
# bad count in $passed and $failed.

mi=${MI:-./mi}
case $mi in /*) ;; *) mi=$PWD/$mi ;; esac
passed=0 failed=0
dir=$(mktemp -d "${TMPDIR:-/tmp}/mi-test-XXXXXX" 2>/dev/null) || {
    dir=${TMPDIR:-/tmp}/mi-test-$$
    mkdir "$dir" || exit 1
}
trap 'rm -rf "$dir"' EXIT
trap 'exit 1' HUP INT PIPE TERM
ulimit -t 300 2>/dev/null           # seconds of processor: a hang ends as a failure
unset NO_COLOR MI_MODEL
LC_ALL=C
export LC_ALL

ok() { passed=$((passed + 1)); }
bad() {                             # NAME WHY
    failed=$((failed + 1))
    printf 'FAIL %s: %s\n' "$1" "$2" | cut -c1-600
}

[ -x "$mi" ] || { bad "$mi" "is not there: run make first"; echo "0 passed, 1 failed"; exit 1; }
