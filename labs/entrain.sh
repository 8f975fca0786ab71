#!/bin/sh
# entrain.sh - does a word become likelier only because it stood in the text before?
#
#     sh labs/entrain.sh [MODEL]
#
# Contextual entrainment (Niu et al. 2025, 2505.09338): a question, "The language of Italy is", with a
# sentence before it and without. How much does the logit of a word rise by the sentence?
#
#     D(w) = logit(w | sentence, question) - logit(w | question)
#
# w is the word that the sentence brings (distractor), the right answer (gold), and one that stands
# nowhere (random), the control. Sentences: the capital of that country (related), of another one
# (irrelevant), a single word (word), and a wrong answer (counterfactual). Means over the countries of
# tests/data/facts.tsv ± SE. Then, for the wrong answers: which heads carry D(distractor)? Heads are
# set to 0 one by one, the strongest of those added up, beside as many of the others.
. "$(dirname "$0")/lab.sh"
facts=tests/data/facts.tsv
[ $# -le 1 ] || no "usage: entrain.sh [MODEL]"
[ -r $facts ] || no "$facts is not here: run it in the folder of mi"
model=${1:-tiny.safetensors}
[ -r "$model" ] || no "no model \"$model\""
ask() {                             # INTO EDIT...: both tables, in $dir/INTO.with and $dir/INTO.without
    into=$1
    shift
    for table in with without; do
        run -m "$model" --metric logit --data "$dir/$table.tsv" "$@"
        mv "$dir/tsv" "$dir/$into.$table"
    done
}
rises() {                           # INTO RUN: what the sentence adds to the logit, row by row
    for table in with without; do
        awk -F'\t' -v run="$2" '$1 == "metric" && $2 != "" && $3 == run { print $5 }' "$dir/$1.$table" > "$dir/$table"
    done
    paste -d ' ' "$dir/with" "$dir/without" | awk '{ print $1 - $2 }'
}

# kind, word, prompt with the sentence, prompt without, the word's text: one line each
awk -F'\t' -v OFS='\t' '
    function country(prompt,    word, i, n) {           # the last word with a capital letter
        n = split(prompt, word, " ")
        for (i = n; i > 1; i--) if (word[i] ~ /^[A-Z]/) { sub(/,/, "", word[i]); return word[i] }
    }
    $5 == "capital" { capital[country($1)] = $2 }
    $5 == "language" { name[n++] = country($1); language[name[n - 1]] = $2 }
    END {
        for (i = 0; i < n; i++) {
            x = name[i]; y = name[(i + 1) % n]; z = name[(i + 5) % n]
            if (!(x in capital) || !(y in capital) || language[x] == language[y] || language[x] == language[z]) continue
            question = "The language of " x " is"
            put("related", "The capital of " x " is" capital[x] ".", capital[x])
            put("irrelevant", "The capital of " y " is" capital[y] ".", capital[y])
            put("word", "The duck.", " duck")
            put("counterfactual", "The language of " x " is" language[y] ".", language[y])
        }
    }
    function put(kind, sentence, word) {
        print kind, "distractor", sentence " " question, question, word
        print kind, "gold", sentence " " question, question, language[x]
        print kind, "random", sentence " " question, question, language[z] == word ? " basketball" : language[z]
    }' $facts > "$dir/cases"
table() { awk -F'\t' -v OFS='\t' -v column="$1" 'BEGIN { print "prompt", "answer" } { print $column, $5 }' "$2" > "$dir/$3.tsv"; }

table 3 "$dir/cases" with
table 4 "$dir/cases" without
ask all
rises all base > "$dir/rises"
echo "rise of a logit by the sentence before"
printf '  %-16s %14s %14s %14s\n' sentence distractor gold random
cut -f1,2 "$dir/cases" | tr '\t' ' ' | paste -d ' ' - "$dir/rises" | awk '
    { d = $3; key = $1 SUBSEP $2; if (!($1 in seen)) { order[++m] = $1; seen[$1] } n[key]++; s[key] += d; q[key] += d * d }
    END {
        for (i = 1; i <= m; i++) {
            printf "  %-16s", order[i]
            for (j = 1; j <= 3; j++) {
                key = order[i] SUBSEP (j == 1 ? "distractor" : j == 2 ? "gold" : "random")
                mean = s[key] / n[key]
                printf " %+7.2f ± %.2f", mean, sqrt((q[key] / n[key] - mean ^ 2) / (n[key] - 1))
            }
            print ""
        }
    }'

# D(distractor) of the counterfactual sentences with heads at 0
grep '^counterfactual	distractor' "$dir/cases" > "$dir/wrong"
table 3 "$dir/wrong" with
table 4 "$dir/wrong" without
mean_rise() {                       # EDIT... -> the mean rise and its error over rows
    ask one "$@"
    rises one "$([ $# -eq 0 ] && echo base || echo edited)" | awk '{ n++; s += $1; q += $1 * $1 }
        END { m = s / n; printf "%+7.2f ± %.2f", m, sqrt((q / n - m * m) / (n - 1)) }'
}
ask each --ablate heads --each
for table in with without; do
    awk -F'\t' '$1 == "change" && $2 == "" { print $8, $5 }' "$dir/each.$table" > "$dir/$table"
done
paste -d ' ' "$dir/with" "$dir/without" | awk '{ printf "%.6f %s\n", $2 - $4, $1 }' | sort -n > "$dir/heads"
# at once: a reader that has gone, as head does, stops cat without a word
{
    echo
    echo "rise of the wrong answer that was given, with heads at 0"
    printf '  %-28s %s\n' none "$(mean_rise)"
    list= other=
    for k in 1 2 3 4; do
        head=$(sed -n "${k}p" "$dir/heads" | cut -d ' ' -f 2)
        list=$list${list:+,}$head
        # as many others, spread over the rest of the list
        pick=$(awk -v k=$k 'NR > 4 { h[++n] = $2 } END { print h[1 + (k * 7) % n] }' "$dir/heads")
        other=$other${other:+,}$pick
        printf '  %-28s %s    %-22s %s\n' "$list" "$(mean_rise --ablate "$list")" "others: $other" "$(mean_rise --ablate "$other")"
    done
} > "$dir/out"
cat "$dir/out"
