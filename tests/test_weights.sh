#!/bin/sh
# test_weights.sh - --neurons and --weights of $MI against tests/golden/weights.golden, and identities.
# Run it from the repository root.

. tests/scratch.sh
golden=tests/golden/weights.golden

# MODEL HEADS NEURONS ANSWER: those of make_weights.py. To 1e-5; scores of QK, sums that cancel, to 3e-5.
while IFS='|' read -r model heads neurons answer; do
    file=tests/golden/$model.safetensors
    [ "$model" != tiny ] || file=tiny.safetensors
    tokens=$(awk -F'\t' -v model="$model" '$1 == model { print $3; exit }' $golden)
    "$mi" -m "$file" --tokens "$tokens" $answer --weights "$heads" --neurons "$neurons" --tsv > "$dir/out" 2> "$dir/err"
    why=$(awk -F'\t' -v model="$model" '
        FNR == NR { if ($1 == model && $2 != "tokens") { want[$2, $3, $4] = $5; token[$2, $3, $4] = $6; n++ } next }
        { if ($1 != "copy score") sub(/ .*/, "", $3); sub(/^[0-9]+ .*/, $4 + 0, $4) }
        ($1, $3, $4) in want { w = want[$1, $3, $4]; t = token[$1, $3, $4]; n -= !seen[$1, $3, $4]++
            if (($5 - w) ^ 2 > ($1 ~ /^qk/ ? 1e-9 : 1e-10) * (1 + w * w)) why = why " " $1 " " $3 " " $4 " is " $5 ", not " w ";"
            if (t != "" && t != $7) why = why " " $1 " " $3 " " $4 " says " $7 ", not " t ";" }
        END { if (n) why = why " " n " values are missing"; print substr(why, 1, 300) }' $golden "$dir/out")
    if [ -z "$why" ]; then ok; else bad "--weights, --neurons of $model" "$why $(cat "$dir/err")"; fi
done << 'END'
odd7|L0H1,L2H0,L1H2|L1N3,L2N17|--answer #36 --versus #37
half12|L1H1,L0H0|L0N5|--answer #2
tiny|L5H3,L4H1,L1H0|L5N366,L0N3,L4N100|--answer #5335 --versus #1757
END

# Neurons and b_out are the MLP's part; under edits too. The map of one head is its column of many.
for edit in "" "--ablate L0H1@-1" "--noise L2.resid_mid=0.5 --samples 3"; do
    "$mi" $edit --neurons L4 --dla --tsv > "$dir/out" 2> "$dir/err"
    "$mi" $edit --dla='L4N*' --tsv >> "$dir/out" 2>> "$dir/err"
    why=$(awk -F'\t' '
        $1 == "neurons" { sum[$4] += $5; n++ }
        $1 == "dla" && $3 == "L4.mlp_out" { whole[$4] = $5 }
        $1 == "dla" && $3 == "L4.b_out" { sum[$4] += $5 }
        END { for (k in sum) if (k !~ /exact/ && (sum[k] - whole[k]) ^ 2 > 1e-9 * (1 + whole[k] ^ 2)) print k, sum[k], whole[k]
              if (n != 512 && n != 1024) print n }' "$dir/out")
    if [ -z "$why" ]; then ok; else bad "neurons and b_out are the MLP $edit" "$why $(cat "$dir/err")"; fi
done
"$mi" --weights L5H3 --tsv > "$dir/one" && "$mi" --weights heads --tsv > "$dir/many"
why=$(awk -F'\t' '
    $1 !~ /^[QKV] composition$/ { next }
    FNR == NR { if ($5 != "") { want[$1, $3 $4] = $5; n++ } next }
    $4 == "L5H3" { n -= ($1, $3) in want && want[$1, $3] == $5 }
    END { if (n) print n " cells differ" }' "$dir/one" "$dir/many")
if [ -z "$why" ]; then ok; else bad "composition of one head and of many" "$why"; fi
# Without one answer, neurons are ordered by length; --top says how many are shown; --data averages
"$mi" "The cat" --neurons L2 -k 3 > "$dir/out"
value=$(grep -c '^     L2N' "$dir/out")
if [ "$value" = 3 ] && grep -q 'how long' "$dir/out"; then ok; else bad "--neurons without an answer" "$(head -20 "$dir/out")"; fi
"$mi" --data tests/data/ioi.tsv --rows 1-3 --neurons L5 -k 2 --weights L0H1 > "$dir/out" 2> "$dir/err"
if grep -q 'the last position.*the 2 largest' "$dir/out" && grep -q 'L0H1 .* ± ' "$dir/out" && grep -q 'L5N[0-9]* .* ± ' "$dir/out"; then ok; else bad "over --data" "$(cat "$dir/err" "$dir/out")"; fi
# QK is scaled as config.json says
mkdir "$dir/unscaled"; cp tests/golden/odd7.safetensors "$dir/unscaled/model.safetensors"
echo '{"model_type": "gpt2", "scale_attn_weights": false}' > "$dir/unscaled/config.json"
for model in tests/golden/odd7.safetensors "$dir/unscaled"; do "$mi" -m "$model" ABC --weights L2H1 --tsv; done > "$dir/out" 2> "$dir/err"
d=$(awk -F'\t' '$1 == "qk L2H1" { if (($3, $4) in one) { r = ($5 / one[$3, $4]) ^ 2; if (n++ && (r - d) ^ 2 > 1e-6) print "not one factor"; d = r }
    one[$3, $4] = $5 } END { printf "%d %.3f", n, d }' "$dir/out")
if [ "$d" = "9 7.000" ]; then ok; else bad "--weights of unscaled attention" "$d $(cat "$dir/err")"; fi
if [ "$("$mi" --neurons L4N3 --at 3 --tsv | grep -c '^neuron activations')" = 14 ]; then ok; else bad "activations" "not of the whole prompt"; fi
# A layer is an element of a list; people see of a head of layer 0 what it meets, embeddings
if [ "$("$mi" --neurons L4,L5N3 --tsv | grep -c '^neurons')" = 513 ]; then ok; else bad "--neurons L4,L5N3" "has not 513"; fi
"$mi" --weights L0H1 > "$dir/out"; "$mi" --weights L1H1 >> "$dir/out"
if grep -q 'OV of L0H1: what.*(raw;' "$dir/out" && grep -q 'QK of L1H1.*(through' "$dir/out" && ! grep -q 'of L0H1.*(through' "$dir/out"
then ok; else bad "what a head of layer 0 meets" "$(grep ' of L' "$dir/out")"; fi
# more tokens than logits are computed of at once
if "$mi" "$(printf ' the%.0s' $(seq 100))" --weights L3H1 --tsv > "$dir/out" 2> "$dir/err" &&
   [ "$(grep -c '^ov rank L3H1.*raw' "$dir/out")" -eq 100 ]; then ok; else bad "--weights of 100 tokens" "$(cat "$dir/err")"; fi

while IFS='|' read -r saying arguments; do
    if "$mi" $arguments > "$dir/out" 2> "$dir/err" || [ $? -ne 2 ] || [ -s "$dir/out" ] ||
       ! grep -q -e "$saying" "$dir/err" || ! grep -q '^ *^$' "$dir/err"; then bad "$arguments" "$(cat "$dir/err")"; else ok; fi
done << 'END'
expected neurons|--neurons L4H1
expected neurons|--neurons L4.mlp_out
read at --at|--neurons L4N1@2
neurons 0-511|--neurons L4N512
layers 0-5|--neurons L6
expected heads|--weights L4.mlp_out
expected heads|--weights L4H1.q
weights have no positions|--weights L4H1@2
layers 0-5|--weights L9H1
END

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
