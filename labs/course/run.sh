#!/bin/sh
# run.sh - the student's tests: each exercise of tests/exercises.txt, or the one that $EX names or
# numbers, against tests/expected.txt. With --make, what is needed for that one is compiled first.
n=0 found=
sum=0 of=0
while read -r name points file functions rest; do
    n=$((n + 1))
    [ -z "$EX" ] || [ "$EX" = "$name" ] || [ "$EX" = "$n" ] || continue
    found=1
    case $file in mi.c) driver=build/engine.so ;; *) driver=build/labs.so ;; esac
    if [ "$1" = --make ]; then ${MAKE:-make} -s $driver || exit 1; fi
    line=$(cd tests && ../build/check grade expected.txt ../$driver "$name" "$points") || exit 1
    got=$(echo "$line" | cut -f2)
    echo "$n $(echo "$line" | awk -F'\t' '{ printf "%-11s %4s of %s  %s", $1, $2, $3, $4 }')"
    sum=$(echo "$sum $got" | awk '{ print $1 + $2 }') of=$((of + points))
done < tests/exercises.txt
[ "$found" ] || { echo "no exercise is called $EX: they are in tests/exercises.txt"; exit 2; }
[ -n "$EX" ] || echo "$sum of $of points; answers.tsv is not tested here"
