#!/bin/sh
# test_lab_gradients.sh - build/labs/relevance computes what PyTorch does (tests/golden/relevance.golden,
# by make_relevance.py), build/labs/jlens what TransformerLens does (jlens.golden, by make_jlens.py),
# and both refuse in one line what they cannot. Run it from the repository root.

. tests/scratch.sh
labs=$(dirname "$mi")/labs
near=.0006                          # four digits are printed

relevance() { "$labs/relevance" "$@" > "$dir/out" 2> "$dir/err"; }
for case in "odd7|#32 33 34 32 33 35 40|#36|#37" "brain11|#1 4 2 8 5 7 1 3|#2|#3"; do
    model=${case%%|*}
    IFS='|'
    set -- $case
    unset IFS
    relevance "tests/golden/$1.safetensors" "$2" "$3" "$4" || bad "labs/relevance" "$(cat "$dir/err")"
    awk -v m="$model" -v near=$near '
        FNR == NR && / ± / { n = NF; got[$1] = $(n - 6) " " $(n - 5) " " $(n - 4) " " $(n - 3) " " $(n - 2) " " $n }
        FNR == NR { next }
        $1 == m { rows++; split(got[$2], g, " ")
            for (i = 1; i <= 6; i++) {
                d = g[i] - $(i + 2)
                if (g[i] == "" || d * d > near * near) print "position " $2 ", column " i ": " g[i] ", not " $(i + 2)
            } }
        END { if (!rows) print "nothing to compare" }' "$dir/out" tests/golden/relevance.golden > "$dir/wrong"
    if [ -s "$dir/wrong" ]; then bad "labs/relevance, $model" "$(head -n 3 "$dir/wrong")"; else ok; fi
    # The rows of a rollout add up to 1, integrated gradients to what changes.
    if awk '/ ± / { sum += $(NF - 6); rest += $(NF - 3) }
            /adds up to/ { gsub(/,/, ""); for (i = 1; i < NF; i++) if ($i == "to") { path = $(i + 1); break }; whole = $NF }
            END { exit !((sum - 1) ^ 2 < 1e-6 && (rest - path) ^ 2 < 1e-6 && (path - whole) ^ 2 <= (.01 * whole) ^ 2) }' "$dir/out"
    then ok; else bad "labs/relevance, $model" "its sums: $(grep adds "$dir/out")"; fi
done

# The logit difference and KL of the Jacobian lens: the last two numbers but three of a line
for case in "odd7|#32 33 34 32 33 35 40|#36|#37" "brain11|#1 4 2 8 5 7 1 3|#2|#3"; do
    IFS='|'
    set -- $case
    unset IFS
    "$labs/jlens" "tests/golden/$1.safetensors" tests/golden/jlens_texts.txt "$2" "$3" "$4" 1 > "$dir/out" 2> "$dir/err" ||
        bad "labs/jlens" "$(cat "$dir/err")"
    awk -v m="$1" -v near=$near '
        FNR == NR && /^  L/ { got[substr($1, 2)] = $(NF - 4) " " $(NF - 3) }
        FNR == NR { next }
        $1 == m { rows++; split(got[$2], g, " ")
            for (i = 1; i <= 2; i++)
                if (g[i] == "" || (g[i] - $(i + 2)) ^ 2 > near * near) print "layer " $2 ": " g[i] ", not " $(i + 2) }
        END { if (!rows) print "nothing to compare" }' "$dir/out" tests/golden/jlens.golden > "$dir/wrong"
    if [ -s "$dir/wrong" ]; then bad "labs/jlens, $1" "$(head -n 3 "$dir/wrong")"; else ok; fi
done

# LAB SAYING ARGUMENT...: status 2, one line, no table
refuses() {
    lab=$1 saying=$2
    shift 2
    "$labs/$lab" "$@" > "$dir/out" 2> "$dir/err"
    status=$?
    if [ $status = 2 ] && [ ! -s "$dir/out" ] && [ "$(wc -l < "$dir/err")" -eq 1 ] && grep -qF -e "$saying" "$dir/err"; then ok
    else bad "labs/$lab $*" "status $status, not \"$saying\" but: $(head -n 2 "$dir/err")"; fi
}
refuses relevance "usage: relevance" tiny.safetensors "The keys"
refuses relevance "at least three tokens" tiny.safetensors "The keys" " are" " is"
refuses relevance "is 2 tokens" tiny.safetensors "The keys to the" " are is" " is"
refuses jlens "usage: jlens" tiny.safetensors tests/data/text.txt "The keys"
refuses jlens "No such file" tiny.safetensors "$dir/none"
refuses jlens "no text has more than" tiny.safetensors tests/data/text.txt "The keys" " are" " is" 100
refuses jlens "not \"2x\"" tiny.safetensors tests/data/text.txt "The keys" " are" " is" 2x

echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
