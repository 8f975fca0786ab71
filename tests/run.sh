#!/bin/sh
# Run test programs and scripts, each of which ends with "N passed, N failed", and add them up.
passed=0 failed=0
log=$(mktemp) || exit 1
trap 'rm -f "$log"' EXIT
for test in "$@"; do
    echo "== $(basename "$test")"
    case $test in
    *.sh) sh "$test" >"$log" 2>&1 ;;
    *) GOMP_SPINCOUNT=1000 "$test" >"$log" 2>&1 ;;     # as mi does: threads that wait soon sleep
    esac
    status=$?
    cat "$log"
    counts=$(tail -n 1 "$log" | sed -n 's/^\([0-9]*\) passed, \([0-9]*\) failed$/\1 \2/p')
    if [ -z "$counts" ]; then
        echo "FAIL $test: ended with status $status before its closing line"
        counts="0 1"
    fi
    passed=$((passed + ${counts% *}))
    failed=$((failed + ${counts#* }))
done
echo "== all"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
