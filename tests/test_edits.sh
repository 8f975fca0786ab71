#!/bin/sh
# test_edits.sh - --patch with --from and --along, and directions out of a table, of $MI: against
# tests/golden/edits.golden, and identities that need no reference. Run it from the repository root.

. tests/scratch.sh
golden=tests/golden
set -f

run() {                             # ARGUMENT...: to out
    "$mi" "$@" --tsv > "$dir/out" 2> "$dir/err" || bad "$*" "$(cat "$dir/err")"
}
cells() { awk -F'\t' '$1 == "cells" { print $8, $5 } $1 == "metric" && $3 != "change" { print $3, $5 }' "$dir/out"; }
same() {                            # NAME: the cells are those of $dir/kept
    cells > "$dir/now"
    if [ -s "$dir/now" ] && cmp -s "$dir/kept" "$dir/now"; then ok; else
        bad "$1" "$(diff "$dir/kept" "$dir/now" | head -n 5)"; fi
}
keep() { cells > "$dir/kept"; }
refuses() {                         # STATUS SAYING ARGUMENT...: a line that says so, nothing else
    want=$1 saying=$2
    shift 2
    "$mi" "$@" > "$dir/out" 2> "$dir/err"
    status=$?
    if [ $status -eq "$want" ] && [ ! -s "$dir/out" ] && grep -qF -e "$saying" "$dir/err"; then ok
    else bad "$*" "status $status, not $want; \"$saying\": $(head -n 1 "$dir/out" "$dir/err")"; fi
}

# Each model's rows for --along, then every line of the golden file
for model in odd7 brain11 tiny; do
    file=$golden/$model.safetensors
    [ $model != tiny ] || file=tiny.safetensors
    mkdir "$dir/$model"
    run -m $file --tokens 32,33,34,32,33,35,40 --save "L1.resid_post@0-2=$dir/$model/rows.npy" \
        --save "L0H1@1-2=$dir/$model/heads.npy" --metric loss
    awk -F'\t' -v model=$model '$1 == model && !seen[$2]++ { print $2 }' $golden/edits.golden > "$dir/cases"
    while read -r arguments; do
        run -m $file $(printf '%s' "$arguments" | sed "s,DIR/,$dir/$model/,")
        why=$(awk -F'\t' -v model=$model -v arguments="$arguments" '
            FNR == NR { if ($1 == model && $2 == arguments) want[$3] = $4; next }
            $1 == "cells" { got[$8] = $5 } $1 == "metric" { got[$3] = $5 }
            END { for (a in want) n++
                  if (!n) print "nothing is expected"
                  for (a in want) if (!(a in got)) print a " is missing"
                  else if ((got[a] - want[a]) ^ 2 > 4e-10 * (1 + want[a] ^ 2)) print a, got[a], want[a] }' \
            $golden/edits.golden "$dir/out")
        if [ -z "$why" ]; then ok; else bad "$model $arguments" "$why"; fi
    done < "$dir/cases"
    if [ "$(wc -l < "$dir/cases")" -gt 15 ]; then ok; else bad "$golden/edits.golden" "says little of $model"; fi
done

# --from the same place is a --patch; from the prompt's own run it is nothing: to the bit
S="When Mary and John went to the store, Mary gave a drink to"
for sites in L2.resid_pre L3H1 L4N7-90 L1H1.pattern L1H2.pattern@12-13:3-9 L2H3.scores L3H0.q L5.ln2_scale embed; do
    from=${sites%%@*}
    run --source "$S" --patch "$sites"; keep
    run --source "$S" --patch "$sites" --from "$from"; same "--from $from"
    run --source same --patch "$sites" --from "$from"
    why=$(awk -F'\t' '$1 == "metric" { said[$3] = $5 } END { if (said["base"] != said["edited"]) print said["edited"] }' "$dir/out")
    if [ -z "$why" ]; then ok; else bad "--from $from of the same prompt" "$why"; fi
done
run --source "$S" --patch 'L*.resid_pre@9' --each; cells | grep -v -e source > "$dir/kept"
for l in 0 1 2 3 4 5; do
    run --source "$S" --patch L$l.resid_pre@9,embed@0 --from L$l.resid_pre@9 --each
    cells | grep "^L$l"
done > "$dir/now"
grep '^L' "$dir/kept" > "$dir/want"
if cmp -s "$dir/want" "$dir/now"; then ok; else bad "cells --from their own place" "$(cat "$dir/now")"; fi

# Along all dimensions it is a patch, along some of its own value nothing
run --source "$S" --patch 'L*.resid_pre@7-10' --each; cp "$dir/out" "$dir/whole"
run --source "$S" --patch 'L*.resid_pre@7-10' --along random:3:128 --each
why=$(awk -F'\t' '$1 != "cells" { next } FNR == NR { want[$8] = $5; n++; next }
    { n--; if ((want[$8] - $5) ^ 2 > 1e-9) print $8, $5, want[$8] } END { if (n) print n }' "$dir/whole" "$dir/out")
if [ -z "$why" ]; then ok; else bad "--along 128 random directions of 128" "$why"; fi
run --source "$S" --patch L2H1 --along random:1:31; keep
run --source "$S" --patch L2H1 --along random:1:31; same "--along random:1:31 again"
run --source "$S" --patch L2H1 --along random:2:31
if cells | cmp -s - "$dir/kept"; then bad "--along random:2" "is random:1"; else ok; fi
run --source same --patch L2.resid_mid,L3H1@4 --along random:7:3
why=$(awk -F'\t' '$1 == "metric" { said[$3] = $5 } END { if (said["base"] != said["edited"]) print said["edited"] }' "$dir/out")
if [ -z "$why" ]; then ok; else bad "--along, source same" "$why"; fi
# each head has its own part of what a table says
run --source "$S" --patch L2H1 --along data:$golden/labels.tsv; cells | sed -n 's/^edited //p' > "$dir/kept"
run --source "$S" --patch L2H0,L2H1 --along data:$golden/labels.tsv --each; cells | sed -n 's/^L2H1 //p' > "$dir/now"
if [ -s "$dir/now" ] && cmp -s "$dir/kept" "$dir/now"; then ok; else bad "--along of a head" "$(cat "$dir/kept" "$dir/now")"; fi
# a random direction is the same for --project and --along: what projecting removes, exchanging restores
run --source "$S" --patch L2.resid_pre@9 --along random:5; keep
run --source "$S" --patch L2.resid_pre@9 --along random:5:1; same "random:5 has the rank 1"
run --source "$S" --project L2.resid_pre@9 --direction random:5 --patch L2.resid_pre@9 --along random:5
why=$(cells | awk 'FNR == NR { want[$1] = $2; next } $1 == "edited" && ($2 - want[$1]) ^ 2 > 1e-8 { print }' "$dir/kept" -)
if [ -z "$why" ]; then ok; else bad "--project and --along" "$why"; fi

# Columns of --data, in the source's tokens; and rows whose sources have other lengths
printf 'prompt\tsource\tanswer\tversus\tS\n%s\tMary was here\t Mary\t John\tMary\n%s\tHello, it was Mary\t Mary\t John\tMary\n' \
    "When Mary and John went to the store, John gave a drink to" "When Mary and John went to the store, John gave a drink to" > "$dir/t.tsv"
run --data "$dir/t.tsv" --patch L2.resid_pre@S --from L3.resid_post@S --per-prompt
awk -F'\t' '$1 == "metric" && $3 == "edited" && $2 { printf "%.9g\n", $5 }' "$dir/out" > "$dir/kept"
for source in "0 Mary was here" "-1 Hello, it was Mary"; do   # where Mary stands in it
    run --source "${source#* }" --patch L2.resid_pre@1 --from "L3.resid_post@${source%% *}"
    awk -F'\t' '$1 == "metric" && $3 == "edited" { print $5 }' "$dir/out"
done > "$dir/now"
if [ "$(wc -l < "$dir/now")" -eq 2 ] && cmp -s "$dir/kept" "$dir/now"; then ok; else bad "--from over --data" "$(cat "$dir/kept" "$dir/now")"; fi
run --source "$S" --patch L2.resid_pre@-1 --from L4.resid_post@3
if grep -q -e '^metric		source' -e '^restored' "$dir/out"; then bad "--from" "says how much is restored"; else ok; fi

for from in L4.resid_post@3 L4.resid_post; do
    run --source "$S" --patch 'L*.resid_pre@-1' --from $from --each
    why=$(awk -F'\t' '$1 == "metric" && $3 == "base" { base = $5 } $1 == "cells" { cell[$8] = $5; n++ }
        $1 == "change" { change[$8] = $5 }
        END { for (a in cell) if (!(a in change) || (change[a] - cell[a] + base) ^ 2 > 1e-9) print a, change[a]
              if (!n) print "nothing" }' "$dir/out")
    if [ -z "$why" ]; then ok; else bad "the changes of --from $from --each" "$why"; fi
done

# data:FILE over --data is computed once, and is the same for each row; the table's own last tokens
cut -f 1-2 $golden/labels.tsv > "$dir/last.tsv"
awk 'NR > 1 { $0 = $0 "\t-1" } NR == 1 { $0 = $0 "\tat" } 1' "$dir/last.tsv" > "$dir/at.tsv"
run --steer 'L*.resid_pre@-1=1' --direction "data:$dir/at.tsv" --each; keep
run --steer 'L*.resid_pre@-1=1' --direction "data:$dir/last.tsv" --each; same "a table without the column at"
awk -F'\t' 'NR > 1 { $0 = $1 "\t" 1 - $2 } 1' "$dir/last.tsv" > "$dir/other.tsv"
run --steer 'L*.resid_pre@-1=-1' --direction "data:$dir/other.tsv" --each
why=$(cells | awk 'FNR == NR { want[$1] = $2; next } ($2 - want[$1]) ^ 2 > 1e-9 { print }' "$dir/kept" -)
if [ -z "$why" ]; then ok; else bad "labels exchanged" "$why"; fi
run --data tests/data/sentiment.tsv --rows 1-2 --steer L2.resid_pre@-1=1 --direction data:tests/data/sentiment.tsv --per-prompt
awk -F'\t' '$1 == "metric" && $3 == "edited" && $2 == 2 { printf "%.9g\n", $5 }' "$dir/out" > "$dir/kept"
run "I hate this film. It is" --answer " terrible| awful| bad| horrible| boring| ugly| stupid" --versus \
    " wonderful| great| beautiful| good| excellent| lovely| amazing" --steer L2.resid_pre@-1=1 --direction data:tests/data/sentiment.tsv
awk -F'\t' '$1 == "metric" && $3 == "edited" { print $5 }' "$dir/out" > "$dir/now"
if [ -s "$dir/now" ] && cmp -s "$dir/kept" "$dir/now"; then ok; else bad "data:FILE over --data" "$(cat "$dir/kept" "$dir/now")"; fi

# What is refused
while IFS='|' read -r status saying arguments; do
    case $arguments in *--patch*) arguments="--source same $arguments" ;; esac
    refuses "$status" "$saying" $arguments
done <<END
2|there is no --patch before it|--ablate L2H1 --from L2H1
2|there is no --patch before it|--steer L2H1=1 --toward Mary --along random:1
2|has one already|--patch L2H1 --from L2H1 --from L2H2
2|it has 128 numbers a position, what is patched of L2.z has 32|--patch L2H1 --from L2.resid_pre
2|it has 32 numbers a position, what is patched of L2.z has 128|--patch L2H* --from L3H1
2|it has 1 numbers a position, what is patched of L2.z has 32|--patch L2H1 --from L2N4
2|expected one place|--patch L2H1 --from L*H1
2|expected one place|--patch L2H1 --from L2H1,L2H2
2|expected one place|--patch L2.pattern --from L2.pattern
2|what is patched of L2.z has 32|--patch L2H1 --from L2H1.pattern
2|leave out the @|--patch L2.pattern@-1 --from L3H1.pattern@-1
2|it names 2 positions, the patch of L2.resid_pre 1|--patch L2.resid_pre@3 --from L2.resid_pre@3-4
2|it names 2 positions, the patch of L2.resid_pre 1|--patch L2.resid_pre@* --from L2.resid_pre@3-4 --each
2|it names 2 positions, the patch of L2.resid_pre 14|--patch L2.resid_pre --from L2.resid_pre@3-4
2|there is no position 14|--patch L2.resid_pre@3 --from L2.resid_pre@14
2|layer 9 does not exist|--patch L2.resid_pre@3 --from L9.resid_pre
2|needs a value|--patch L2H1 --from
2|needs a value|--patch L2H1 --along
2|the name of a file is empty|--patch L2H1 --along=
2|they have no direction|--patch L2.pattern --along random:1
2|they have no direction|--patch L2H1,L2.pattern --along random:1
2|expected random:SEED|--patch L2H1 --along random:
2|expected random:SEED|--patch L2H1 --along random:1:
2|expected random:SEED|--patch L2H1 --along random:1:0
2|expected random:SEED|--patch L2H1 --along random:1:x
2|expected random:SEED|--patch L2H1 --along random:1:2:3
1|random:1:33: 1056 numbers; a direction here has 32, and there can be 32|--patch L2H1 --along random:1:33
1|rows.npy: 384 numbers; a direction here has 32, and there can be 1|--project L2H1 --direction $dir/tiny/rows.npy
1|direction here has 32|--patch L2H1 --along $dir/tiny/rows.npy
1|64 numbers; a direction here has 128|--patch L2.resid_pre --along $dir/tiny/heads.npy
1|none.npy|--patch L2H1 --along $dir/none.npy
2|expected a whole number after random:|--steer L2H1=1 --direction random:1:2
1|none.tsv|--steer L2H1=1 --direction data:$dir/none.tsv
1|expected a column named label|--steer L2H1=1 --direction data:tests/data/ioi.tsv
END
refuses 2 "it has 3 tokens, the prompt 14" --source Hello --patch L2.resid_pre@3 --from L2.resid_post
# rows that depend on each other; labels that are none
printf 'tokens\tlabel\n32 33\t1\n34 35\tyes\n' > "$dir/yes.tsv"
refuses 1 'yes.tsv, row 2: the label is "yes", not 0 or 1' --steer L2H1=1 --direction "data:$dir/yes.tsv"
for label in "" 01 " 1" 2 1.0 "0|1"; do
    printf 'tokens\tlabel\n32 33\t1\n34 35\t%s\n' "$label" > "$dir/yes.tsv"
    refuses 1 "row 2: the label is \"$label\"" --project L2H1 --direction "data:$dir/yes.tsv"
done
printf 'tokens\tlabel\n32 33\t1\n34 35\t1\n' > "$dir/one.tsv"
refuses 1 "no row has label 0" --project L2H1 --direction "data:$dir/one.tsv"
printf 'tokens\tlabel\n32 33\t1\n34 99999\t0\n' > "$dir/bad.tsv"
refuses 2 "bad.tsv, row 2: " --project L2H1 --direction "data:$dir/bad.tsv"
run --tokens 32,32,33 --save "embed@0-1=$dir/twice.npy" --metric loss
refuses 1 "direction 1 of $dir/twice.npy depends on those before it" --source same --patch L2.resid_pre --along "$dir/twice.npy"
run --tokens 32,33 --ablate L2.resid_pre --save "L2.resid_pre=$dir/zero.npy" --metric loss
refuses 1 "direction 0 of $dir/zero.npy is zero" --source same --patch L2.resid_pre --along "$dir/zero.npy"

# --explain says what goes where
explains() {                        # WORDS ARGUMENT...
    words=$1
    shift
    "$mi" "$@" --explain > "$dir/out" 2> "$dir/err"
    if grep -qF -e "$words" "$dir/out"; then ok; else bad "--explain $*" "does not say $words"; fi
}
explains "takes L4.resid_post of the source at 3" --source same --patch L2.resid_pre@-1 --from L4.resid_post@3
explains "takes L4.resid_post of the source at the same position" --source same --patch 'L*.resid_pre@*' --from L4.resid_post --each
explains "takes L4.resid_post of the source at 3 and the next, row by row" --source same --patch L2.resid_pre@1-2 --from L4.resid_post@3-4
explains "--along random:1:3" --source same --patch L2.resid_pre@1-2 --along random:1:3

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
