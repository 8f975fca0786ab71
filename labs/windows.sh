#!/bin/sh
# windows.sh - how much of its attention does a model need, and what for is the rest?
#
#     sh labs/windows.sh [MODEL [PROMPT]]
#
# Three questions about attention, over all heads at once.
#   sink    how much of it lies on the first token, where often nothing is to be read (Xiao et al.
#           2023)? The control is what evenly spread attention would put there.
#   window  the mean loss if nothing further back than W tokens can be seen, with and without the
#           first token (Longformer, Mistral; StreamingLLM keeps the first)
#   cut     the same edges cut in two ways: before the softmax (score -infinity: the rest gets the
#           weight) and after it (pattern 0: the weight is lost). They are not the same intervention.
# As a control, as many edges at random, cut before the softmax: means over 5 draws ± SE.
. "$(dirname "$0")/lab.sh"
[ $# -le 2 ] || no "usage: windows.sh [MODEL [PROMPT]]"
model=${1:-tiny.safetensors}
text=${2:-"The train was late. When George saw Sam in the house, he handed a ring to Sam. It was a good ring."}
[ -r "$model" ] || no "no model \"$model\""
ask() { run -m "$model" "$text" "$@"; }

ask --attn 'L*H*'
awk -F'\t' '
    $1 ~ /^pattern / { split($1, head, " "); q = $3 + 0; key = $4 + 0; if (key > T) T = key
        if (q > 0 && key == 0) { first[head[2]] += $5; n[head[2]]++ } }
    END {
        for (t = 1; t <= T; t++) even += 1 / (t + 1) / T
        for (h in n) { share = first[h] / n[h]; sum += share; heads++; sinks += share > .5; if (share > most) { most = share; at = h } }
        printf "sink: %.3f of the attention is on the first token (evenly spread: %.3f)\n", sum / heads, even
        printf "      %d of %d heads have more than half of theirs there; most, %.2f, has %s\n\n", sinks, heads, most, at
        print T + 1 > "'"$dir"'/n"
    }' "$dir/tsv"
read -r n < "$dir/n"

loss() {                            # EDIT... -> the mean loss
    ask --metric loss "$@"
    set -- $(value "$([ $# -eq 0 ] && echo base || echo edited)")
    echo "$1"
}
edges() {                           # W FIRST: the edges from each query to keys further back than W
    awk -v n="$n" -v w="$1" -v first="$2" 'BEGIN { for (q = 0; q < n; q++) for (k = first; k + w <= q; k++)
        printf "%s%d:%d", (c++ ? " " : ""), q, k }'
}
as_sites() { for e in $1; do printf '%sL*H*%s@%s' "$comma" "$2" "$e"; comma=,; done; comma=; }
comma=
printf 'loss %.3f; with fewer edges\n' "$(loss)"
echo "  window  edges   before softmax   first kept   after softmax   as many at random"
for w in 1 2 4 8 16; do
    [ $w -lt "$n" ] || continue
    list=$(edges $w 0)
    kept=$(edges $w 1)
    count=$(echo $list | wc -w)
    before=$(loss --knockout "$(as_sites "$list" "")")
    first=$([ -z "$kept" ] && loss || loss --knockout "$(as_sites "$kept" "")")
    after=$(loss --ablate "$(as_sites "$list" .pattern)")
    for draw in 1 2 3 4 5; do
        random=$(awk -v n="$n" -v m="$count" -v seed=$draw 'BEGIN {
            seed = seed * 7919
            for (q = 0; q < n; q++) for (k = 0; k < q; k++) e[++c] = q ":" k
            for (i = c; i > 1; i--) { seed = (seed * 16807) % 2147483647; j = 1 + seed % i; x = e[i]; e[i] = e[j]; e[j] = x }
            for (i = 1; i <= m && i <= c; i++) printf "%s%s", (i > 1 ? " " : ""), e[i] }')
        loss --knockout "$(as_sites "$random" "")"
    done > "$dir/draws"
    awk -v w=$w -v e="$count" -v b="$before" -v f="$first" -v a="$after" '{ s += $1; q += $1 * $1 }
        END { m = s / NR; v = q / NR - m * m; printf "  %6d  %5d          %.3f        %.3f           %.3f       %.3f ± %.3f\n", w, e, b, f, a, m, sqrt(v > 0 ? v / (NR - 1) : 0) }' "$dir/draws"
done
