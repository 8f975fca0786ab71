#!/bin/sh
# test_lab_probe.sh - build/labs/probe prints and writes what scikit-learn and Hugging Face's GPT-2 make of
# the same tables (tests/golden/probe.golden, by make_probe.py), ./mi takes its directions, and what it
# cannot do it refuses in one line. Run it from the repository root.

. tests/scratch.sh
labs=$(dirname "$mi")/labs
odd=tests/golden/odd7.safetensors
GOMP_SPINCOUNT=1000                 # as mi does: waiting threads sleep
export GOMP_SPINCOUNT

probe() { "$labs/probe" "$@" > "$dir/out" 2> "$dir/err"; }

# Every number of the report, with the keys of the golden file; then those of the directions.
numbers() {
    sed 's/±/ /g' "$dir/out" | awk -v OFS='\t' '
        function rest(from,   i, s) { for (i = from; i <= NF; i++) if ($i != "to") s = s OFS $i; return s }
        /change of the logit difference/ { sub(/.*from/, ""); sub(/,.*/, ""); print "base" rest(1) }
        $1 ~ /^L[0-9]+$/ && $2 ~ /[a-z]/ { print $1 " " $2 rest(3); next }
        $1 ~ /^L[0-9]+$/ { print $1 rest(2) }
        $2 == "projected" { name = $1; print name " out" rest(4) }
        $1 == "moved" { print name " moved" rest(3) }'
    for name in mean ridge lda; do
        printf 'w %s\t' $name
        od -An -v -tf4 -j128 "$dir/w-$name.npy" | tr -s ' \n' '\t\t' | sed 's/^\t//; s/\t$//'
        echo
    done
}

# CASE MODEL TABLE LAYER
equals() {
    case=$1
    shift
    probe "$@" "$dir/w" || bad "labs/probe, $case" "$(head -n 1 "$dir/err")"
    numbers > "$dir/got"
    awk -F'\t' -v case="$case" '
        FNR == NR { if ($1 == case) { want[$2] = $0; n++ } next }
        { if (!($1 in want)) { print $1 " is not in the golden file"; next }
          seen++
          if (split(want[$1], w, "\t") != NF + 1) print $1 ": " NF - 1 " numbers"
          length2 = 0; for (i = 2; i <= NF; i++) length2 += w[i + 1] ^ 2
          for (i = 2; i <= NF; i++) {           # printed: two digits; in the golden file: six
              d = $i - w[i + 1]; size = w[i + 1] < 0 ? -w[i + 1] : w[i + 1]
              most = $1 ~ /^w/ ? 1e-6 * length2 ^ .5 + 5.1e-6 * size : .0052 + 1e-4 * size
              if ($i !~ /[0-9]/ || d > most || -d > most) print $1 ", number " i - 1 ": " $i ", not " w[i + 1]
          } }
        END { if (!n || seen != n) print seen " lines, not " n }' tests/golden/probe.golden "$dir/got" > "$dir/wrong" ||
        echo "cannot be compared" > "$dir/wrong"
    if [ -s "$dir/wrong" ]; then bad "labs/probe, $case" "$(head -n 3 "$dir/wrong")"; else ok; fi
}
equals odd7 $odd tests/golden/probe_odd7.tsv 1
equals mixed $odd tests/golden/probe_mixed.tsv 2
if grep -q 'shuffled within groups' "$dir/out"; then ok; else bad "labs/probe, mixed" "$(head -n 2 "$dir/out")"; fi
equals tiny tiny.safetensors tests/data/sentiment.tsv 3

# The difference of means is what mi calls data:FILE; all three go where a direction can.
steer() { "$mi" "I hate this film. It is" --answer ' great' --versus ' terrible' --tsv "$@" 2> "$dir/err" | grep '^metric'; }
steer --steer L3.resid_pre@-1=1 --direction "$dir/w-mean.npy" | cut -f 5 > "$dir/file"
steer --steer L3.resid_pre@-1=1 --direction data:tests/data/sentiment.tsv | cut -f 5 > "$dir/data"
if [ -s "$dir/file" ] && paste "$dir/file" "$dir/data" | awk '($1 - $2) ^ 2 > 1e-8 { exit bad = 1 } END { exit bad || NR < 2 }'
then ok; else bad "labs/probe, --steer" "$(paste "$dir/file" "$dir/data" | tr '\n' ' ') $(cat "$dir/err")"; fi
sed -n 's/^    \.\/mi //p' "$dir/out" > "$dir/commands"
while IFS= read -r arguments; do
    # shellcheck disable=SC2086
    if "$mi" $arguments > "$dir/file" 2> "$dir/err" && [ -s "$dir/file" ]; then ok
    else bad "labs/probe prints ./mi $arguments" "$(cat "$dir/err")"; fi
done < "$dir/commands"
[ "$(wc -l < "$dir/commands")" -eq 3 ] || bad "labs/probe" "does not print the commands for what it wrote"
for name in ridge lda; do
    if steer --project L3.resid_pre@-1 --direction "$dir/w-$name.npy" > "$dir/file" && [ -s "$dir/file" ]; then ok
    else bad "labs/probe, --project" "$(cat "$dir/err")"; fi
    if steer --source "I love this film. It is" --patch L3.resid_pre@-1 --along "$dir/w-$name.npy" > "$dir/file" && [ -s "$dir/file" ]; then ok
    else bad "labs/probe, --along" "$(cat "$dir/err")"; fi
done

# SAYING STATUS ARGUMENT...: one line, no table
refuses() {
    saying=$1 want=$2
    shift 2
    probe "$@"
    status=$?
    if [ $status = "$want" ] && [ ! -s "$dir/out" ] && [ "$(wc -l < "$dir/err")" -eq 1 ] && grep -qF -e "$saying" "$dir/err"; then ok
    else bad "labs/probe $*" "status $status, not \"$saying\" but: $(head -n 2 "$dir/err")"; fi
}
rows() {                            # COLUMNS SED-SCRIPT: of the table of random tokens
    cut -f "$1" tests/golden/probe_odd7.tsv | sed "$2" > "$dir/t.tsv"
}
refuses "usage: probe" 2 $odd t 1 w more
refuses "LAYER is 3, not 0 to 2" 2 $odd tests/golden/probe_odd7.tsv 3
refuses "LAYER is 1x" 2 $odd tests/golden/probe_odd7.tsv 1x
refuses "LAYER is -1" 2 $odd tests/golden/probe_odd7.tsv -1
refuses "No such file" 2 $odd "$dir/none.tsv"
rows 2-5 ''; refuses "no column prompt" 2 $odd "$dir/t.tsv"
rows 1,3-5 ''; refuses "no column label" 2 $odd "$dir/t.tsv"
rows 1-3 's/group/at/'; refuses "a column at" 2 $odd "$dir/t.tsv"
rows 1-3 's/	1	/	2	/'; refuses 'row 1: the label is "2"' 2 $odd "$dir/t.tsv"
rows 1-3 's/	[01]	/		/'; refuses 'the label is ""' 2 $odd "$dir/t.tsv"
rows 1-3 's/	1	/	0	/'; refuses "all labels are 0" 2 $odd "$dir/t.tsv"
rows 1-3 's/	0	/	1	/'; refuses "all labels are 1" 2 $odd "$dir/t.tsv"
rows 1-3 's/g1*[0-9]$/g&/; s/gg[0369]$/a/; s/gg1[25]$/a/'; refuses "too few groups" 2 $odd "$dir/t.tsv"
rows 1-3 's/^#[0-9 ]*/#/'; refuses "row 1: an empty prompt" 2 $odd "$dir/t.tsv"
rows 1-3 's/^#[0-9 ]*/#99/'; refuses "no token of this model" 2 $odd "$dir/t.tsv"
# Where all rows are the same there is nothing to read, and it says so: layer 0 after equal tokens.
rows 1-3 's/^#\([0-9]* [0-9]* [0-9]*\)[0-9 ]*/#\1 40/'
probe $odd "$dir/t.tsv"
if grep -q 'L0  the same vector in all rows' "$dir/out" && ! grep -q 'L0 *mean\|nan' "$dir/out"; then ok
else bad "labs/probe" "the same vector in all rows: $(head -n 6 "$dir/out" "$dir/err")"; fi
if probe $odd tests/golden/probe_odd7.tsv 1 "$dir/no/such"; then bad "labs/probe" "a folder that is not there"
elif grep -q "no/such-mean.npy: No such" "$dir/err"; then ok; else bad "labs/probe" "$(cat "$dir/err")"; fi

echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
