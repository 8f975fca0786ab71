#!/bin/sh
# run.sh FOLDER SECONDS HARNESS... - each fuzzer for so many seconds, from its seeds and from what
# earlier runs found (FOLDER/corpus_HARNESS). Ends with "N passed, N failed". The input of a failure
# is kept as FOLDER/HARNESS-crash-...; run FOLDER/fuzz_HARNESS FILE to see it again.
folder=$(cd "$1" && pwd) || exit 1
seconds=$2
shift 2
seeds=$PWD/tests/fuzz
passed=0 failed=0
if [ -d /dev/shm ] && [ -w /dev/shm ]; then TMPDIR=/dev/shm; export TMPDIR; fi
ASAN_OPTIONS=allocator_may_return_null=1:detect_leaks=1
export ASAN_OPTIONS
for name in "$@"; do
    log=$folder/$name.log corpus=$folder/corpus_$name dictionary= leaks=1 exact=0
    [ ! -e "$seeds/$name.dict" ] || dictionary=-dict=$seeds/$name.dict
    case $name in
    npy | table | command) leaks=0 ;;                   # they leave by exit(): program.c takes back
    weights) exact=4096 ;;
    text) exact=300 ;;                                  # more only takes longer
    esac
    mkdir -p "$corpus"
    "$folder/fuzz_$name" -max_total_time="$seconds" -timeout=60 -rss_limit_mb=3000 -max_len=$exact \
        -detect_leaks=$leaks -artifact_prefix="$folder/$name-" $dictionary "$corpus" \
        "$seeds/seeds/$name" >"$log" 2>&1
    status=$?
    runs=$(sed -n 's/^Done \([0-9]*\) runs.*/\1/p' "$log")
    if [ $status -eq 0 ] && [ -n "$runs" ]; then
        echo "fuzz $name: $runs executions, $(ls "$corpus" | wc -l | tr -d ' ') inputs kept"
        passed=$((passed + 1))
    else
        why=$(grep -hE 'MUST hold|ERROR|runtime error|SUMMARY' "$log" | head -n 1)
        echo "FAIL fuzz $name: $why"
        grep -h 'Test unit written' "$log"
        failed=$((failed + 1))
    fi
done
echo "== all"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
