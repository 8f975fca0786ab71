#!/bin/sh
# states.sh - does a model keep a state in a set of neurons?
#
#     sh labs/states.sh [TABLE [LAYER [K [MODEL]]]]
#
# A machine that follows a text is in a state after each step; if the model is one, its state should
# be written somewhere. Take the K most active neurons of an MLP at the last token of each prompt, and
# compare the sets of any two prompts, |A and B| / |A or B| (Jaccard), as 2502.20129 does for chains
# of thought:
#
#     compression   mean over pairs in the same state       should be near 1
#     distinction   1 - mean over pairs in different ones   should be near 1
#
# The state of a row is its answer: in tests/data/brackets.tsv the bracket that has to close next. The
# control has the same states in random order, 100 times: mean and SD of compression - overlap.
. "$(dirname "$0")/lab.sh"
[ $# -le 4 ] || no "usage: states.sh [TABLE [LAYER [K [MODEL]]]]"
table=${1:-tests/data/brackets.tsv} layer=$2 k=${3:-20} model=${4:-tiny.safetensors}
for file in "$table" "$model"; do [ -r "$file" ] || no "no file \"$file\""; done
case $k$layer in *[!0-9]*) no "LAYER and K are numbers" ;; esac
awk -F'\t' 'NR == 1 { for (i = 1; i <= NF; i++) if ($i == "answer") c = i; if (!c) exit 1; next } NR <= 41 { print $c }' \
    "$table" > "$dir/state" || no "$table has no column named answer"
n=$(wc -l < "$dir/state")
shape -m "$model" x

echo "sets of the $k most active neurons at the last token, $n rows of $table"
echo "  layer  same state  other states  compression - overlap   states in random order"
for l in ${layer:-$(seq 0 $((layers - 1)))}; do
    run -m "$model" --data "$table" --rows "1-$n" --neurons "L$l" --per-prompt
    awk -F'\t' '$1 == "neuron active" && $2 != "" { print $2, $5, $3 }' "$dir/tsv" | sort -k1,1n -k2,2gr |
        awk -v k="$k" '{ if (++n[$1] <= k) print $1, $3 }' > "$dir/sets"
    awk -v l=$l -v n="$n" '
        function measure(    i, j, s, d, ns, nd) {
            for (i = 1; i < n; i++) for (j = i + 1; j <= n; j++)
                if (state[i] == state[j]) { s += overlap[i, j]; ns++ } else { d += overlap[i, j]; nd++ }
            same = ns ? s / ns : 0; other = nd ? d / nd : 0
            return same - other
        }
        FNR == NR { state[FNR] = $0; next }
        { has[$1, $2] = 1; all[$2] = 1; size[$1]++ }
        END {
            for (i = 1; i < n; i++) for (j = i + 1; j <= n; j++) {
                both = 0
                for (x in all) if ((i, x) in has && (j, x) in has) both++
                overlap[i, j] = both / (size[i] + size[j] - both)
            }
            d = measure(); s0 = same; o0 = other
            seed = 1
            for (r = 0; r < 100; r++) {
                for (i = n; i > 1; i--) {
                    seed = (seed * 16807) % 2147483647
                    j = 1 + seed % i; swap = state[i]; state[i] = state[j]; state[j] = swap
                }
                x = measure(); sum += x / 100; squares += x * x / 100
            }
            printf "  L%-5d      %.3f         %.3f                 %+.3f          %+.3f ± %.3f\n", l, s0, o0, d, sum,
                sqrt(squares - sum * sum)
        }' "$dir/state" "$dir/sets"
done
