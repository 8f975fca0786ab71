#!/bin/sh
# test_labs.sh - each program of labs/ prints on tiny what tests/golden/labs/ has, and the same numbers
# as $MI (./mi), which has its own tests against TransformerLens. Run it from the repository root.
#     sh tests/test_labs.sh --update           writes tests/golden/labs/, after you have looked at it

. tests/scratch.sh
labs=$(dirname "$mi")/labs
golden=tests/golden/labs
S="When Mary and John went to the store, Mary gave a drink to"

# Two tables of numbers: may a number differ in its last digit? Where the processor has no FMA.
near() {
    awk -v by="${MI_TEST_NEAR:+.011}" '
        FNR == NR { line[FNR] = $0; n = FNR; next }
        { split(line[FNR], a); for (i = 1; i <= NF || i in a; i++) {
              x = a[i]; y = $i; if (x == "·") x = 0; if (y == "·") y = 0
              if (x != y && !(by && (x - y) ^ 2 <= by ^ 2)) exit bad = 1 } }
        END { exit bad || FNR != n }' "$1" "$2"
}

for lab in "$labs"/*; do
    name=$(basename "$lab")
    [ -x "$lab" ] && [ -e "labs/$name.c" ] || continue
    if ! "$lab" > "$dir/$name" 2> "$dir/err"; then bad "labs/$name" "$(head -n 1 "$dir/err")"
    elif [ "$1" = --update ]; then cp "$dir/$name" $golden/
    elif near $golden/$name "$dir/$name"; then ok
    else bad "labs/$name" "prints something else: $(diff $golden/$name "$dir/$name" | head -n 4)"; fi
done
[ "$1" = --update ] && exit

# NAME TABLE UNIT ARGUMENT...: the lab's map is mi's table, times UNIT
agrees() {
    name=$1 table=$2 unit=$3
    shift 3
    "$mi" "$@" --tsv 2> "$dir/err" | awk -F'\t' -v table=$table -v unit="$unit" '$1 == table {
        v = $5 * unit; print v ^ 2 < .005 ^ 2 ? 0 : sprintf("%+.2f", v) }' > "$dir/mi"
    grep '^  L[0-9] ' "$dir/$name" | awk '{ for (i = 2; i <= NF; i++) print $i == "·" ? 0 : $i }' > "$dir/lab"
    if [ -s "$dir/mi" ] && MI_TEST_NEAR=1 near "$dir/mi" "$dir/lab"; then ok
    else bad "labs, $name" "it and ./mi $* do not agree: $(diff "$dir/mi" "$dir/lab" | head -n 4)"; fi
}
agrees ablate change 1 --ablate heads --each
agrees patch change 1 --source "$S" --patch 'L*.resid_pre@*' --each
sed -n '/into L5H3/,$p' "$dir/path" > "$dir/L5H3"
agrees L5H3 path -28.0143 --source "$S" --path 'L0-4H*' --into L5H3.q   # of source - base

"$mi" --dla --tsv | awk -F'\t' '$1 == "dla" && $4 == "base" && $3 ~ /^L|embed/ && $5 ^ 2 >= .005 ^ 2 {
    printf "  %-12s %+8.3f\n", $3, $5 }' > "$dir/mi"
grep -E '^  (L|embed)' "$dir/dla" > "$dir/lab"
if [ -s "$dir/mi" ] && MI_TEST_NEAR=1 near "$dir/mi" "$dir/lab"; then ok
else bad "labs/dla" "it and ./mi --dla do not agree: $(diff "$dir/mi" "$dir/lab" | head -n 4)"; fi

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
