#!/bin/sh
# test_labs_sh.sh - each script of labs/ prints on tiny what tests/golden/labs/ has, gates.sh finds the
# gates of models that were built by hand (truth.c), and bad use is one line.
#     sh tests/test_labs_sh.sh --update        writes tests/golden/labs/*.sh.txt, after you have looked

. tests/scratch.sh
MI=$mi
export MI
golden=tests/golden/labs
update=${1:-no}

# Two tables of numbers: may a number differ in its last digit? Where the processor has no FMA.
near() {
    awk -v by="${MI_TEST_NEAR:+.011}" '
        FNR == NR { line[FNR] = $0; n = FNR; next }
        { m = split(line[FNR], a); if (m != NF) exit bad = 1
          for (i = 1; i <= NF; i++) { x = a[i]; y = $i
              if (x != y && !(by && x ~ /^[-+]?[0-9]/ && (x - y) ^ 2 <= by ^ 2)) exit bad = 1 } }
        END { exit bad || FNR != n }' "$1" "$2"
}
lab() {                             # NAME ARGUMENT...
    name=$1
    shift
    if ! sh "labs/$name" "$@" > "$dir/$name" 2> "$dir/err"; then bad "labs/$name" "$(head -n 1 "$dir/err")"
    elif [ "$update" = --update ]; then cp "$dir/$name" "$golden/$name.txt"
    elif near "$golden/$name.txt" "$dir/$name"; then ok
    else bad "labs/$name" "prints something else: $(diff "$golden/$name.txt" "$dir/$name" | head -n 4)"; fi
}
lab gates.sh L4H3 L5H3 --source "When Mary and John went to the store, Mary gave a drink to" \
    --answer " Mary" --versus " John" "When Mary and John went to the store, John gave a drink to"
lab backpatch.sh
lab entrain.sh
lab states.sh
lab windows.sh
[ "$update" = --update ] && exit

# The gates whose kind is known
${CC:-cc} -O1 -w -o "$dir/truth" tests/truth.c -lm || bad "truth.c" "cannot be compiled"
for gate in and or adder; do
    "$dir/truth" $gate "$dir/$gate.safetensors"
    sh labs/gates.sh L0H0 L0H1 -m "$dir/$gate.safetensors" --tokens 1,3,4 --source-tokens 0,2,4 \
        --answer '#5' --versus '#6' > "$dir/out" 2> "$dir/err"
    name=$(echo $gate | tr a-z A-Z)
    if grep -q "^L0H0 .*  $name\$" "$dir/out"; then ok; else bad "gates.sh" "$gate: $(cat "$dir/out" "$dir/err")"; fi
    if grep -q '^L0H2 .*(no effect)$' "$dir/out"; then ok; else bad "gates.sh" "$gate, its control: $(cat "$dir/out")"; fi
done
"$dir/truth" induction "$dir/induction.safetensors"
sh labs/gates.sh L0H1 L1H2 -m "$dir/induction.safetensors" --tokens 1,2,3,4,1 --source-tokens 3,2,1,4,1 \
    --answer '#2' --versus '#4' > "$dir/out" 2> "$dir/err"
if grep -q '^L0H1 .*  CHAIN$' "$dir/out"; then ok; else bad "gates.sh" "induction: $(cat "$dir/out" "$dir/err")"; fi

# Over a table: means over its rows, and with prompt and source exchanged
sh labs/gates.sh L4H3 L5H3 --data tests/data/ioi.tsv --rows 1-9 > "$dir/out" 2> "$dir/err"
awk -F'\t' 'BEGIN { OFS = FS } { x = $1; if (NR > 1) { $1 = $4; $4 = x } print }' tests/data/ioi.tsv > "$dir/swapped.tsv"
for sites in L4H3 L5H3 L4H3,L5H3; do
    "$mi" --data "$dir/swapped.tsv" --rows 1-9 --patch $sites --tsv
done | awk -F'\t' '$1 == "metric" && $2 == "" && ($3 == "edited" || !n) { v[n++] = $5 }
    END { printf "%7.3f %7.3f %7.3f %7.3f\n", v[3], v[1], v[2], v[0] }' > "$dir/means"
if grep '^L4H3 ' "$dir/out" | grep -qF "$(cat "$dir/means")"; then ok; else bad "gates.sh --data" "not $(cat "$dir/means"): $(cat "$dir/out" "$dir/err")"; fi

refuses() {                         # SAYING NAME ARGUMENT...
    saying=$1 name=$2
    shift 2
    sh "labs/$name" "$@" > "$dir/out" 2> "$dir/err"
    status=$?
    if [ $status = 2 ] && [ ! -s "$dir/out" ] && [ "$(wc -l < "$dir/err")" -eq 1 ] && grep -qF -e "$saying" "$dir/err"; then ok
    else bad "labs/$name $*" "status $status, not \"$saying\" but: $(head -n 2 "$dir/err")"; fi
}
refuses "two heads first" gates.sh
refuses "L0 is not a head" gates.sh L0 L1H0
refuses "L1H0 twice" gates.sh L1H0 L1H0
refuses "brings its own prompts" gates.sh L0H0 L1H0 --data tests/data/ioi.tsv "a cat"
refuses "nowhere: no such file" gates.sh L0H0 L1H0 --data nowhere
refuses "the columns prompt and source" gates.sh L0H0 L1H0 --data tests/data/brackets.tsv
refuses "those of --data" gates.sh L0H0 L1H0 --rows 1-3 --source "a dog" --answer " Mary" --versus " John" "a cat"
printf 'prompt\tsource\na cat\ta dog\na dog\ta cat\n' > "$dir/unasked.tsv"
refuses "logit_diff needs --answer" gates.sh L0H0 L1H0 --data "$dir/unasked.tsv"
refuses "logit_diff needs --answer" backpatch.sh --data "$dir/unasked.tsv" --at 1 --rows 1-2
refuses "not a row" gates.sh L0H0 L1H0 --data tests/data/ioi.tsv --rows 0-3
refuses "--each is not understood" gates.sh L0H0 L1H0 --each
refuses "--source needs a value" gates.sh L0H0 L1H0 --source
refuses "nowhere: no such file" gates.sh L0H0 L1H0 -m nowhere --source x --answer a --versus b y
refuses "layer 9 does not exist" gates.sh L9H9 L1H0 --source "a dog" --answer " Mary" --versus " John" "a cat"
refuses "--each is not understood" backpatch.sh --each
refuses "nowhere: no such file" backpatch.sh --data nowhere
refuses "the columns prompt and source" backpatch.sh --data tests/data/brackets.tsv
refuses "two rows at least" backpatch.sh --rows 1-1
refuses "usage" entrain.sh tiny.safetensors more
refuses "no model" entrain.sh "$dir/none.safetensors"
refuses "are numbers" states.sh tests/data/brackets.tsv five
refuses "no file" states.sh "$dir/none.tsv"
refuses "no column named answer" states.sh tests/data/text.txt
refuses "no model" windows.sh "$dir/none.safetensors"

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
