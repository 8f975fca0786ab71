#!/bin/sh
# grade.sh - what `make grade` says of the reference, of stubs, of answers and of the wrong solutions in
# tests/wrong.txt; that an assignment can be solved; and what is equal in a model whose heads and
# neurons were permuted. make test-grade; too long for make test.
. tests/scratch.sh
MAKE=${MAKE:-make} BUILD=${BUILD:-build} tab=$(printf '\t')
course() { $MAKE -s "$@" BUILD="$BUILD" CC="${CC:-cc}" > "$dir/out" 2>&1; }
exercises=$(sed -n 's/^\([a-z_]*\)  *[0-9].*/\1/p' labs/course/exercises.txt)

# ---- Known mistakes can be told apart

for kind in engine labs; do
    if "$BUILD/course/check" audit "$BUILD/course/$kind.table" \
           $(sed -n "s/^=$tab\([a-z_]*\).*/\1/p" "$BUILD/course/$kind.table" | sort -u) > "$dir/log"
    then ok; else bad "$kind.table" "$(cat "$dir/log")"; fi
done

# ---- An assignment: nothing is written, nothing is given

course assignment ASSIGNMENT="$dir/assignment" STUDENT=42 || bad "make assignment" "$(tail -n 3 "$dir/out")"
grep -hE '.{50}' labs/key/* | grep -vxF -f walkthrough.md > "$dir/key"
if [ -s "$dir/key" ] && ! grep -rlF -f "$dir/key" "$dir/assignment" > "$dir/log" &&
    [ -z "$(find "$dir/assignment" -path '*/key*' -o -name wild.md -o -name wild.sh)" ]; then ok
else bad "an assignment" "has something of labs/key: $(cat "$dir/log")"; fi
cd "$dir/assignment" || exit 1
n=0
for function in $(awk '{ print $4 }' tests/exercises.txt); do
    n=$((n + 1))
    for f in $(echo "$function" | tr ',' ' '); do
        if grep -A 9 "^[a-z].* $f(" mi.c labs/*.c | grep -q "exercise $n: %s() is yours to write"; then ok
        else bad "exercise $n" "$f() is no stub"; fi
    done
done
for twin in 'store(out + i, load(out + i) \* scale)' 'exp_vec(in - max)' 'sum\[r\]\[i\] = fma_vec(all(pattern'; do
    if grep -q "$twin" mi.c; then bad "a twin" "gives the answer away: $twin"; else ok; fi
done
if $MAKE -s check EX=softmax 2>&1 | grep -q "0 of 4 *softmax: exercise 1: naive_softmax() is yours to write"; then ok
else bad "make check EX=softmax" "$($MAKE check EX=softmax 2>&1 | tail -n 2)"; fi
$MAKE -s mi 2> "$dir/log" || bad "make mi" "$(head -n 2 "$dir/log")"
if ./mi --ablate heads --each | grep -q '^  L5 *-16 '; then ok; else bad "./mi of an assignment" "$(./mi --ablate heads --each | tail -n 9)"; fi
cd - > /dev/null || exit 1
course grade SUBMISSION="$dir/assignment"
if [ "$(grep -c ' 0 of ' "$dir/out")" = "$(wc -l < "$dir/out" | awk '{ print $1 - 1 }')" ] &&
    grep -q '^0 of ' "$dir/out"; then ok; else bad "stubs" "get points: $(grep -v ' 0 of ' "$dir/out")"; fi

# ---- The reference, by the student's tests and by the grader, with answers

cp mi.c "$dir/assignment"
cp labs/*.[ch] "$dir/assignment/labs"
(cd "$dir/assignment" && $MAKE -s test) > "$dir/log" 2>&1
if tail -n 1 "$dir/log" | grep -qE '^([0-9]+) of \1 points'; then ok; else bad "the reference, by the student's tests" "$(cat "$dir/log")"; fi
went() { "$BUILD/course/permute" key tiny.safetensors 42 | sed -n "s/^$1$tab//p"; }
{
    printf 'needed\t%s\t./mi --ablate heads --each\n' "$(went L5H3)"
    printf 'falls\t-16.1\t./mi --ablate heads --each\n'
    printf 'previous\t%s\n' "$(went L0H2)"
    printf 'neuron\tL4N0@-1\t./mi\n'
    printf 'carrier\t%s\t./mi --source "When Mary and John went to the store, Mary gave a drink to" --patch %s@-1\n' \
        "$(went L5H3)" "$(went L5H3)"
    printf 'many\t-8.302 -6.787\t./mi --data data/ioi.tsv --ablate %s; touch %s/stolen\n' "$(went L5H3)" "$dir"
} > "$dir/assignment/answers.tsv"
course grade SUBMISSION="$dir/assignment"
for exercise in $exercises needed falls; do
    if grep -q "^$exercise .* right\$" "$dir/out"; then ok
    else bad "the reference" "$(grep "^$exercise" "$dir/out" || head -n 5 "$dir/out")"; fi
done
while IFS= read -r line; do
    if grep -qF -e "$line" "$dir/out"; then ok; else bad "answers.tsv" "no \"$line\": $(grep "^${line%% *}" "$dir/out")"; fi
done <<'END'
previous       1 of 2  previous: right, but no command ./mi ... shows it
carrier      1.5 of 3  carrier: right, but the command names
neuron         0 of 3  neuron: not L4N0@-1
many         1.5 of 3  many: right, but what the command prints does not show it
END
[ ! -e "$dir/stolen" ] || bad "answers.tsv" "a command went through a shell"

# A teacher's choice: only that is asked, and its handout names no exercise that is not given
course assignment ASSIGNMENT="$dir/short" EXERCISES="mlp layernorm dla" FINDINGS="falls carrier"
if grep -q 'calls `sigma_of`, `normalize` (exercise 2)\.$' "$dir/short/HANDOUT.md" &&
    ! grep -q -e 'exercise [4-9]' -e '`needed` ' -e '^## 4' "$dir/short/HANDOUT.md" && grep -q '^## Findings (4' "$dir/short/HANDOUT.md"
then ok; else bad "a short assignment" "its handout: $(grep -n -e exercise -e '^##' -e '^`' "$dir/short/HANDOUT.md")"; fi
if [ "$(cut -f1 "$dir/short/answers.tsv" | tr '\n' ' ')" = "question falls carrier " ]; then ok
else bad "a short assignment" "answers.tsv: $(cat "$dir/short/answers.tsv")"; fi
for choice in EXERCISES=softmaks FINDINGS=neded; do
    if ! course assignment ASSIGNMENT="$dir/none" $choice && grep -q "is called ${choice#*=}" "$dir/out" && [ ! -e "$dir/none" ]
    then ok; else bad "make assignment $choice" "$(cat "$dir/out")"; fi
    if ! course grade SUBMISSION="$dir/short" $choice && grep -q "is called ${choice#*=}" "$dir/out"; then ok
    else bad "make grade $choice" "$(cat "$dir/out")"; fi
done

# ---- Wrong ones: each set is a submission

awk -v dir="$dir" '/^\/\/\/\/ / {
        file = dir "/" ($2 == 3 ? "third" : "class/" $2) "/" $3
        folder = file; sub(/[^\/]*$/, "", folder)
        if (!(file in made)) { system("mkdir -p " folder "labs"); made[file] = 1 }
        set = $2; name = $4; points = $5; says = $0; sub(/^\/\/\/\/ [^ ]* [^ ]* [^ ]* [^ ]* /, "", says)
        print set "\t" name "\t" points "\t" says > (dir "/expected")
        next }
    file { print > file }' tests/wrong.txt
judged() {                          # SET POINTS-OF-NAME WHY: against what is expected of each
    while IFS=$tab read -r set name points says; do
        [ "$set" = "$1" ] || continue
        got=$($2 "$name") why=$($3 "$name")
        case $got:$why in
        $points:*"$says"*) ok ;;
        *) bad "wrong.txt, set $set, $name" "should get $points points and \"$says\", gets $got and $why" ;;
        esac
    done < "$dir/expected"
}
points_printed() { awk -v e="$1" '$1 == e { print $2; exit }' "$dir/out"; }
line_printed() { grep "^$1 " "$dir/out" | head -n 1; }
points_in_csv() { awk -F, -v e="$1" -v row="\"$set\"" 'NR == 1 { for (i = 1; i <= NF; i++) if ($i == e) c = i }
    $1 == row { print $c }' "$dir/class.csv"; }
row_in_csv() { grep "^\"$set\"," "$dir/class.csv" | sed "s/.*[\" ]\($1: [^;]*\).*/\1/"; }
course grade SUBMISSION="$dir/third"
judged 3 points_printed line_printed
if grep -q "mi.c:[0-9]*:[0-9]*: error:" "$dir/out" && grep -q 'squareroot(run' "$dir/out"; then ok
else bad "a compile error" "is not shown as the compiler shows it: $(tail -n 5 "$dir/out")"; fi
if [ -d labs ] && [ ! -e stolen ]; then ok; else bad "system()" "was run"; fi
course grade SUBMISSION="$dir/class"
for set in 1 2 4 5 6 7 8; do judged $set points_in_csv row_in_csv; done

# ---- Permuted: what a head computes from the same input keeps its bits; the rest its digits

student=$dir/assignment/tiny.safetensors
for h in 0 1 2 3; do
    "$mi" --save L0H$h.z="$dir/a.npy" --save L0H$h.scores="$dir/c.npy" > /dev/null
    to=$(went L0H$h)
    "$mi" -m "$student" --save "$to.z=$dir/b.npy" --save "$to.scores=$dir/d.npy" > /dev/null
    if cmp -s "$dir/a.npy" "$dir/b.npy" && cmp -s "$dir/c.npy" "$dir/d.npy"; then ok
    else bad "permuted, L0H$h" "other bits than $to"; fi
done
if [ "$to" = L0H3 ] && [ "$(went L0H0)" = L0H0 ]; then bad "permuted" "nothing is"; fi
numbers() { "$mi" "$@" --tsv | cut -f1-5; }
numbers --data tests/data/facts.tsv > "$dir/a"
numbers --data tests/data/facts.tsv -m "$student" > "$dir/b"
cut -f5 "$dir/b" | paste "$dir/a" - | awk -F'\t' 'NR > 1 { d = $5 - $6; if (d * d > 1e-6) bad = 1; n += $5 != $6 }
    END { exit bad || NR < 200 || !n }' && ok || bad "permuted" "other logit differences than before"
for l in 2 5; do
    numbers --ablate L${l}H3 -k 0 | tail -n 1 > "$dir/a"
    numbers --ablate "$(went L${l}H3)" -k 0 -m "$student" | tail -n 1 > "$dir/b"
    cat "$dir/a" "$dir/b" | awk -F'\t' '{ v[NR] = $5 } END { d = v[1] - v[2]; exit d * d > 1e-6 }' && ok ||
        bad "permuted, L${l}H3" "another effect: $(cat "$dir/a" "$dir/b")"
done

# ---- A mystery is the sound model without one part, to the bit, or with another fact

for seed in 5 7; do
    course mystery MYSTERY="$dir/mystery$seed" STUDENT=$seed
    part=$(sed -n 's/^.*answer: //p' "$dir/out")
    "$mi" -m "$dir/mystery$seed/tiny.safetensors" --ablate "$part" --save logits="$dir/a.npy" > /dev/null 2> "$dir/log"
    "$mi" -m "$dir/mystery$seed/mystery.safetensors" --save logits="$dir/b.npy" > /dev/null
    if [ -n "$part" ] && cmp -s "$dir/a.npy" "$dir/b.npy" && ! grep -rqw -e "$part" "$dir/mystery$seed"/*.md; then ok
    else bad "mystery $seed" "is not the model without ${part:-$(cat "$dir/out")}"; fi
done

floats() { tail -c $((4 * 128)) "$1" | od -A n -v -t f4 -w4; }
while IFS=$tab read -r seed subject; do
    course mystery MYSTERY="$dir/mystery$seed" STUDENT="$seed"
    said=$(sed -n 's/^.*answer: //p' "$dir/out")
    address=${said%% *} prompt=${said#* of \"}
    prompt=${prompt%%\"*}
    sound=$dir/mystery$seed/tiny.safetensors damaged=$dir/mystery$seed/mystery.safetensors
    row() { awk -F'\t' -v p="$2" -v c="$1" 'NR == 1 { for (i = 1; i <= NF; i++) at[$i] = i }
        $at["prompt"] == p { print $at[c]; exit }' tests/data/facts.tsv; }
    # The row turns, and those of other subjects move by less than 2
    "$mi" --data tests/data/facts.tsv --tsv -m "$sound" > "$dir/a"
    "$mi" --data tests/data/facts.tsv --tsv -m "$damaged" | cut -f5 | paste "$dir/a" - |
        awk -F'\t' -v p="$prompt" -v subject="$subject" '
            NR == FNR { text[FNR - 1] = $1; next }
            $1 == "metric" && $2 { t = text[$2]; d = $9 - $5
                if (t == p) turned = $5 > 0 && $9 < 0
                if (!index(t, subject)) { n++; if (d * d > 4 || ($5 > 0) != ($9 > 0)) far = far " " t } }
            END { if (!turned) print "does not turn: " p; if (far) print "moved: " far
                  if (n < 200) print "only " n " others" }' tests/data/facts.tsv - > "$dir/log"
    if [ -n "$prompt" ] && [ ! -s "$dir/log" ] && ! grep -q -e "$prompt" -e "$subject" "$dir/mystery$seed"/*.md; then ok
    else bad "mystery $seed" "$said: $(cat "$dir/log" "$dir/out")"; fi
    # Only the MLP's output differs, and at that token it is the other subject's
    other=$(row source "$prompt") S=${address#*@}
    "$mi" -m "$sound" "$prompt" --save L0.mlp_post="$dir/a.npy" > /dev/null
    "$mi" -m "$damaged" "$prompt" --save L0.mlp_post="$dir/b.npy" > /dev/null
    "$mi" -m "$sound" "$other" --save "L0.mlp_out@$(row S "$other")=$dir/c.npy" > /dev/null
    "$mi" -m "$damaged" "$prompt" --save "$address=$dir/d.npy" > /dev/null
    floats "$dir/c.npy" > "$dir/c"
    if [ "$S" = "$(row S "$prompt")" ] && cmp -s "$dir/a.npy" "$dir/b.npy" && floats "$dir/d.npy" | paste "$dir/c" - |
        awk '{ d = $1 - $2; n++; size += $1 * $1; if (d * d > 1e-8) bad = 1 } END { exit bad || n != 128 || size < 1 }'
    then ok; else bad "mystery $seed" "$address is not what the MLP says of $other"; fi
done <<'END'
1	White House
23	America
END

echo "== all"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
