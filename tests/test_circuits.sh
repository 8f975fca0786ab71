#!/bin/sh
# test_circuits.sh - --circuit and --stability of $MI (./mi) against tests/golden/circuits.golden, what
# they are by definition, to the bit, and lists of addresses in files. Run it from the repository root.

. tests/scratch.sh
tiny=tests/data/ioi.tsv
printf '# who got the drink?\nL0H1   # duplicate tokens\n\n  L4H2\r\nL4H3,L5H3' > "$dir/ioi.txt"
grep -e ^prompt -e 0-ABBA $tiny > "$dir/abba.tsv"
printf 'heads\n' > "$dir/all.txt"
printf 'L0H1@S2\nL5H3@" gave a"  # @" #"\nL4H*@2-4\n' > "$dir/places.txt"

# ---- Numbers: those of another implementation

compare() {                         # WANT: what $dir/out has to say
    why=$(awk -F'\t' '
        function near(a, b) { return (a - b) ^ 2 <= 1e-8 * (1 + b * b) }
        FNR == NR { value[$1, $3, $4] = $5; se[$1, $3, $4] = $6; next }
        { n++; key = $1 SUBSEP $2 SUBSEP $3 }
        !(key in value) { print $1, $2, $3, "is missing"; next }
        !near(value[key], $4) { print $1, $2, $3, "is " value[key] ", not " $4 }
        $5 != "-" && ($5 == "" ? se[key] != "" : !near(se[key], $5)) { print $1, $2, $3, "± " se[key] ", not " $5 }
        END { if (n < 4) print n + 0 " numbers" }' "$dir/out" "$1" | head -n 4)
    if [ -z "$why" ]; then ok; else bad "$arguments" "$why"; fi
}
run() { eval "\"\$mi\" $* --tsv" > "$dir/out" 2> "$dir/err" || bad "$*" "$(cat "$dir/err")"; }
arguments=
while IFS='	' read -r line; do
    case $line in
    run*)
        [ -z "$arguments" ] || { run "$arguments"; compare "$dir/want"; }
        arguments=${line#run?}
        : > "$dir/want" ;;
    *) printf '%s\n' "$line" >> "$dir/want" ;;
    esac
done < tests/golden/circuits.golden
run "$arguments"; compare "$dir/want"

# ---- What a circuit is, to the bit: each row is one --ablate

same() {                            # ROW SITES KIND ABLATED ARGUMENT...: the row of --circuit SITES=KIND
    row=$1 circuit=$2 kind=$3 ablated=$4            # is --ablate ABLATED=KIND, for each prompt
    shift 4
    [ $# -eq 0 ] || set -- "$@" --per-prompt
    "$mi" "$@" --circuit "$circuit=$kind" --tsv > "$dir/one" 2> "$dir/err" &&
        "$mi" "$@" --ablate "$ablated=$kind" --tsv > "$dir/two" 2>> "$dir/err" || cat "$dir/err"
    why=$(awk -F'\t' -v row="$row" 'FNR == 1 { file++ } $1 == "circuit" && $3 == row { n++; got[$2] = $5 }
        $1 == "metric" && file == 2 && $3 == "edited" { m++
            if ($5 != got[$2]) print "prompt " $2 ": " got[$2] ", not " $5 } END { if (!n || n != m) print n + 0, m + 0 }' \
        "$dir/one" "$dir/two")
    if [ -z "$why" ]; then ok; else bad "$row of $circuit=$kind $*" "$why"; fi
}
i="file:$dir/ioi.txt"
same circuit "$dir/ioi.txt" mean "not:$i"
same circuit "$i" tlzero "not:$i"
same complement "$i" zero "$i"
same circuit "$i" mean "not:$i" --data "$dir/abba.tsv" --rows 1-3
same complement "file:$dir/places.txt" mean "file:$dir/places.txt" --data "$dir/abba.tsv" --rows 4-5
same complement "L0H1@3,L2.mlp_out,L3N5,L1.z@4" mean "L0H1@3,L2.mlp_out,L3N5,L1.z@4"
same circuit "L0-4H*,L5H*@0-12" mean "L5H*@13"
same "all ablated" "$i" mean heads
same "less L4H2" "$i" mean "not:L0H1,L4H3,L5H3"
same circuit "not:L0H0" zero L0H0
same circuit "$i" mean "not:$i" --data "$dir/abba.tsv" --mean-from source
same complement "$i" resample "$i" --data "$dir/abba.tsv" --seed 3
run "--circuit '$dir/all.txt'"; why=$(awk -F'\t' '$3 == "base" { base = $5 }
    $1 == "circuit" && ($3 == "whole" || $3 == "circuit" || $3 == "random circuits") && $5 != base { print $3, $5, base }
    $1 == "circuit" { v[$3] = $5 } END { if (v["complement"] != v["all ablated"] || v["complement"] == base) print "all" }' "$dir/out")
if [ -z "$why" ]; then ok; else bad "the circuit of all heads" "$why"; fi
# patched from the source: as --patch, and nothing of the kind left is that of the source alone
S="When Mary and John went to the store, Mary gave a drink to"
a=$("$mi" --source "$S" --circuit "$i=source" --tsv | awk -F'\t' '$1 == "circuit" && $3 == "circuit" { print $5 }')
b=$("$mi" --source "$S" --patch "not:$i" --tsv | awk -F'\t' '$1 == "metric" && $3 == "edited" { print $5 }')
if [ -n "$a" ] && [ "$a" = "$b" ]; then ok; else bad "--circuit =source" "$a, not $b"; fi
for seed in 0 1; do "$mi" --circuit "$i" --seed $seed --tsv | grep '^random' > "$dir/$seed"; done
if cmp -s "$dir/0" "$dir/1" || [ "$(wc -l < "$dir/0")" -ne 80 ]; then bad "--seed of a circuit" "the same sets"; else ok; fi

# ---- Lists in files

alike() {                           # ARGUMENTS ARGUMENTS: the same tables
    eval "\"\$mi\" $1 --tsv" > "$dir/one" 2> "$dir/err" && eval "\"\$mi\" $2 --tsv" > "$dir/two" 2>> "$dir/err" &&
        [ -s "$dir/one" ] && cmp -s "$dir/one" "$dir/two" && ok || bad "$1" "not as $2: $(cat "$dir/err")"
}
alike "--ablate not:$i=mean" "--ablate not:L0H1,L4H2,L4H3,L5H3=mean"
alike "--ablate $i --each" "--ablate L0H1,L4H2,L4H3,L5H3 --each"
alike "--ablate file:$dir/all.txt --each" "--ablate heads --each"
alike "--attn $i" "--attn L0H1,L4H2,L4H3,L5H3"
alike "--data $dir/abba.tsv --rows 2 --ablate file:$dir/places.txt --each" \
    "--data $dir/abba.tsv --rows 2 --ablate 'L0H1@S2,L5H3@\" gave a\",L4H*@2-4' --each"
"$mi" --ablate file:- --each --tsv < "$dir/ioi.txt" > "$dir/one"; "$mi" --ablate "$i" --each --tsv > "$dir/two"
cmp -s "$dir/one" "$dir/two" && ok || bad "file:-" "differs"
sed 's/$/=x/' "$dir/ioi.txt" | "$mi" --data "$dir/abba.tsv" --rows 1-2 --ablate file:/dev/stdin --tsv > "$dir/out" 2> "$dir/err"
[ $? -eq 2 ] && [ ! -s "$dir/out" ] && ok || bad "a wrong line" "is taken"

refused() {                         # STATUS SAYING ARGUMENT...: one line, or with the line and its caret three
    status=$1 saying=$2
    shift 2
    "$mi" "$@" > "$dir/out" 2> "$dir/err" < "$dir/ioi.txt"
    if [ $? -eq "$status" ] && [ ! -s "$dir/out" ] && grep -q -e "$saying" "$dir/err"; then ok
    else bad "$*" "$(cat "$dir/err")"; fi
}
printf 'L0H1\n\n  L4Q2 # what\nL1H1\n' > "$dir/bad.txt"; printf '# none\n' > "$dir/none.txt"; printf 'L0\0H1\n' > "$dir/zero.txt"
refused 2 'bad.txt:3: expected H' --ablate "L0H0,file:$dir/bad.txt=mean"
[ "$(sed -n '2p;3p' "$dir/err")" = "      L4Q2 # what
        ^" ] && ok || bad "the caret in a file" "$(cat "$dir/err")"
printf 'L0H1@" #"   # in quotes it is text\n' > "$dir/quoted.txt"
refused 2 'no run of whole tokens' --ablate "file:$dir/quoted.txt"
refused 2 'no address in it' --ablate "L0H0,file:$dir/none.txt"
refused 2 'no address in it' --circuit "$dir/none.txt"
refused 2 'the name of a file' --ablate "file:,L0H0"
refused 1 'No such file' --ablate "file:$dir/nowhere"
refused 2 'zero byte' --ablate "file:$dir/zero.txt"
refused 1 'read already' - --ablate file:-
refused 2 '=resample or =source' --circuit L5H3=nothing
refused 2 'needs --data' --circuit L5H3=resample
refused 2 'needs --source' --circuit L5H3=source
refused 2 'and there is none' --circuit L5H3 --source "$S"
refused 2 'leave out interventions' --circuit L5H3 --ablate L4H3
refused 2 'heads, neurons and whole sites' --circuit L5H3.pattern
refused 2 'needs --each and --data' --ablate heads --each --stability 3
refused 2 'needs --each and --data' --data $tiny --stability 3
refused 1 '24 of 24 cells are no choice' --data $tiny --rows 1-2 --ablate heads --each --stability 24
refused 1 'one group of rows' --data $tiny --rows 1 --ablate heads --each --stability 2

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
