#!/bin/sh
# Run test programs and scripts, each of which ends with "N passed, N failed", and add them up.
# MI_TEST_SECONDS=N: how long one of them may take (where there is `timeout`).
seconds=${MI_TEST_SECONDS:-900}
passed=0 failed=0 running=
log=$(mktemp) || exit 1
trap 'rm -f "$log"' EXIT
trap 'kill $running 2>/dev/null; exit 1' HUP INT TERM
limit=
if timeout -k 1 5 true 2>/dev/null; then limit="timeout -k 10 $seconds"; fi
for test in "$@"; do
    echo "== $(basename "$test")"
    case $test in
    *.sh) $limit sh "$test" >"$log" 2>&1 & ;;
    *) GOMP_SPINCOUNT=1000 $limit "$test" >"$log" 2>&1 & ;; # as mi does: waiting threads sleep
    esac
    running=$!
    wait "$running"
    status=$?
    running=
    cat "$log"
    counts=$(tail -n 1 "$log" | sed -n 's/^\([0-9]*\) passed, \([0-9]*\) failed$/\1 \2/p')
    if [ -n "$limit" ] && [ "$status" -eq 124 ] || [ "$status" -eq 137 ]; then
        echo "FAIL $test: hangs, or needs more than $seconds seconds (MI_TEST_SECONDS=N)"
        counts="0 1"
    elif [ -z "$counts" ]; then
        echo "FAIL $test: ended with status $status before its closing line"
        counts="0 1"
    fi
    passed=$((passed + ${counts% *}))
    failed=$((failed + ${counts#* }))
done
echo "== all"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
