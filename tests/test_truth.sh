#!/bin/sh
# test_truth.sh - models whose circuit is known, because it was built by hand (truth.c): does each
# method of $MI (./mi) find it? Where a method cannot, the line says what it says instead, and why.
# Every value is exact up to what sigma differs from place to place, 1 in 100,000.
. tests/scratch.sh

${CC:-cc} -O1 -w -o "$dir/truth" tests/truth.c -lm || { echo "0 passed, 1 failed"; exit 1; }
for model in and or adder induction lookup; do
    "$dir/truth" $model "$dir/$model.safetensors" || bad "$model" "cannot be written"
done

# MODEL ARGUMENTS: what the lines below are about. The prompt's tokens, the source's, the question.
about() {
    title="$*"
    model=$1
    shift
    "$mi" -m "$dir/$model.safetensors" "$@" --tsv > "$dir/tsv" 2> "$dir/err" ||
        bad "$title" "$(head -n 1 "$dir/err")"
}
# TABLE CELL VALUE: CELL is an address or the name of a row
says() {
    value=$(awk -F'\t' -v table="$1" -v cell="$2" '$1 == table && ($8 == cell || $3 == cell) &&
        $4 !~ /exact|kl/ { print $5; exit }' "$dir/tsv")
    if [ -n "$value" ] && awk -v x="$value" -v y="$3" 'BEGIN { d = x - y; exit d * d > 1e-8 }'; then ok
    else bad "$title" "$1 of $2 should be $3, is ${value:-not there}"; fi
}
# TABLE CELL...: these are more than .0001 from 0, and no others
only() {
    table=$1
    shift
    value=$(awk -F'\t' -v table="$table" '$1 == table && $4 !~ /exact|loss/ && $5 ^ 2 > 1e-8 {
        printf "%s%s", n++ ? " " : "", $8 != "" ? $8 : $3 }' "$dir/tsv")
    if [ "$value" = "$*" ]; then ok; else bad "$title" "$table should show $*, shows $value"; fi
}

# ---- Gates: heads 0 and 1 carry a bit each into a neuron; head 2 carries one to nobody

on="--tokens 1,3,4 --answer #5 --versus #6" off="--tokens 0,2,4 --answer #5 --versus #6"
for gate in and or adder; do
    case $gate in
    and)   both=1    a=0 b=0 ;;
    or)    both=1    a=1 b=1 ;;
    adder) both=2.5  a=1 b=1.5 ;;
    esac
    for at in "1,3,4 $both" "1,2,4 $a" "0,3,4 $b" "0,2,4 0"; do
        about $gate --tokens ${at% *} --answer '#5' --versus '#6'
        says metric base ${at#* }
    done
done

# Taking one away finds the inputs of AND and ADDER. Of OR it finds nothing: the other is enough.
about and $on --ablate heads --each
only change L0H0 L0H1
says change L0H0 -1
about adder $on --ablate heads --each
only change L0H0 L0H1
says change L0H1 -1.5
about or $on --ablate heads --each
only change
about or $on --ablate L0H0,L0H1                 # only both together
says metric edited 0

# Patched into the run where nothing is on (denoising), it is the other way round.
about or $off --source-tokens 1,3,4 --patch heads --each
only change L0H0 L0H1
says change L0H0 1
about adder $off --source-tokens 1,3,4 --patch heads --each
says change L0H0 .4
says change L0H1 .6
about and $off --source-tokens 1,3,4 --patch heads --each
only change
about and $off --source-tokens 1,3,4 --patch L0H0,L0H1
says metric edited 1

# Edges: the paths, and none of head 2, which is read by nobody.
about and $on --source-tokens 0,2,4 --edges
only edges 'input->a0.h0<v>' 'input->a0.h1<v>' 'a0.h0->m0' 'a0.h1->m0' 'm0->logits'
says edges 'a0.h0->m0' 1
about adder $on --source-tokens 0,2,4 --edges
only edges 'input->a0.h0<v>' 'input->a0.h1<v>' 'a0.h0->m0' 'a0.h1->m0' 'm0->logits'
says edges 'a0.h1->m0' .6
about or $on --source-tokens 0,2,4 --edges      # one edge at a time: an OR shows its output only
only edges 'm0->logits'
about or $off --source-tokens 1,3,4 --edges
only edges 'input->a0.h0<v>' 'input->a0.h1<v>' 'a0.h0->m0' 'a0.h1->m0' 'm0->logits'

# Gradients: where the gate is a straight line, they are exact. They see no further than the patch of
# one head does, and where the neuron is flat at the start, nothing; on the way to the source it is
# not, so that integrated gradients share an OR between its inputs.
for gate in and adder; do
    about $gate $on --source-tokens 0,2,4 --attribute heads
    only attribution L0H0 L0H1
    only exact L0H0 L0H1
done
about or $on --source-tokens 0,2,4 --attribute heads
only attribution
about or $on --source-tokens 0,2,4 --attribute heads --steps 50
says attribution L0H0 -.5
says attribution L0H1 -.5
says attribution L0H2 0
about and $on --source-tokens 0,2,4 --attribute edges
only attribution 'input->a0.h0<v>' 'input->a0.h1<v>' 'a0.h0->m0' 'a0.h1->m0' 'm0->logits'

# Circuits: of AND and ADDER both heads are needed, of OR one is enough: faithful, and yet incomplete,
# for what was left out can do it too.
for gate in and or adder; do
    about $gate $on --source-tokens 0,2,4 --circuit L0H0,L0H1=source
    says faithfulness circuit 1
    says faithfulness complement 0
done
about and $on --source-tokens 0,2,4 --circuit L0H0=source
says faithfulness circuit 0
says faithfulness complement 0
about or $on --source-tokens 0,2,4 --circuit L0H0=source
says faithfulness circuit 1
says faithfulness complement 1
about adder $on --source-tokens 0,2,4 --circuit L0H0=source
says faithfulness circuit .4
says faithfulness complement .6

# ---- Induction: L0H1 notes what came before, L1H2 looks for its own past there

again="--tokens 1,2,3,4,1 --answer #2 --versus #4"
about induction $again
says metric base 1
about induction --heads 12
strongest() {
    value=$(awk -F'\t' -v table="$1" '$1 == table && $5 > high { high = $5; at = $8 } END { print at }' "$dir/tsv")
    if [ "$value" = "$2" ]; then ok; else bad "$title" "the strongest $1 head should be $2, is $value"; fi
}
strongest induction L1H2
strongest previous L0H1
says previous L0H1 1
value=$(awk -F'\t' '$1 == "heads loss" && $5 != 0 { printf "%s ", $8 }' "$dir/tsv")
if [ "$value" = "L0H1 L1H2 " ]; then ok; else bad "$title" "the loss should need L0H1 and L1H2 alone, needs $value"; fi
about induction $again --ablate heads --each
only change L0H1 L1H2
about induction $again --dla                    # the answer is said by the second alone
only "dla heads" L1H2
says "dla heads" L1H2 1
# 1 and 3 change places, so that 4 follows 1: only what came before differs where it matters.
about induction $again --source-tokens 3,2,1,4,1 --edges
only edges 'input->a0.h1<v>' 'a0.h1->a1.h2<k>' 'a1.h2->logits'
says edges 'a0.h1->a1.h2<k>' 1
about induction $again --source-tokens 3,2,1,4,1 --path 'L0H*' --into L1H2.k
only path L0H1
about induction $again --source-tokens 3,2,1,4,1 --path 'L0H*' --into L1H2.q
only path
about induction $again --source-tokens 3,2,1,4,1 --patch heads --each
only change L0H1 L1H2
about induction $again --source-tokens 3,2,1,4,1 --circuit L0H1,L1H2=source
says faithfulness circuit 1
says faithfulness complement 0
# Its attention is saturated: a slope sees nothing of the first head, the exact patch sees all.
about induction $again --source-tokens 3,2,1,4,1 --attribute heads
says attribution L0H1 0
says exact L0H1 -2
says exact L1H2 -2

# ---- Lookup: L0H3 brings the first name to the last, neuron 6 knows the pair, L1H0 fetches it

fact="--tokens 1,6,14,15 --answer #11 --versus #8"
other="--source-tokens 2,6,14,15"
about lookup $fact
says metric base 1
about lookup $fact $other --patch 'L*.resid_pre@*' --each
only change L0.resid_pre@0 L1.resid_pre@1
about lookup $fact $other --edges
only edges 'input->a0.h3<v>' 'a0.h3->m0' 'm0->a1.h0<v>' 'a1.h0->logits'
about lookup $fact --ablate 'L0N0-15' --each
only change L0N6
about lookup $fact --attribute 'L0N0-15'
only attribution L0N6
about lookup $fact --ablate heads --each
only change L0H3 L1H0
about lookup $fact $other --attribute heads
only attribution L0H3 L1H0
about lookup $fact $other --circuit L0H3,L1H0=source
says faithfulness circuit 1
says faithfulness complement 0

echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
