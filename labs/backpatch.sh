#!/bin/sh
# backpatch.sh - does a later layer know already what an earlier one still needs?
#
#     labs/backpatch.sh [-m MODEL] [--data FILE] [--rows A-B] [--at POS]
#
# The prompt runs again with h_to := h_from at POS, h_l the output of block l, for all pairs of
# layers (Biran et al., Hopping Too Late, 2406.12775). The change of the logit difference, mean over
# the rows of FILE +- SE (rows taken as independent).
# Above the diagonal (from > to) a state goes back. Control: the same pair
# of layers, from the row's source, which is another prompt: what any foreign state does there.
. "$(dirname "$0")/lab.sh"
data=tests/data/facts.tsv at=S rows=1-12
while [ $# -gt 0 ]; do
    case $1 in
    -m|--data|--rows|--at) [ $# -gt 1 ] || no "$1 needs a value" ;;
    *) no "$1 is not understood: [-m MODEL] [--data FILE] [--rows A-B] [--at POS]" ;;
    esac
    case $1 in -m) MI_MODEL=$2; export MI_MODEL ;; --data) data=$2 ;; --at) at=$2 ;; --rows) rows=$2 ;; esac
    shift 2
done
[ -f "$data" ] || no "$data: no such file"
[ -z "${MI_MODEL:-}" ] || [ -f "$MI_MODEL" ] || no "$MI_MODEL: no such file"
shape x
# The source of each row is the row's prompt.
rewrite "$data" '$s = $p' > "$dir/same.tsv"
for kind in same other; do
    table=$data title="from the source (control)"
    [ $kind = other ] || { table=$dir/same.tsv title="from the prompt's own run"; }
    to=0
    : > "$dir/pairs"
    while [ $to -lt "$layers" ]; do
        from=0
        while [ $from -lt "$layers" ]; do
            run --data "$table" --rows "$rows" --patch "L$to.resid_post@$at" --from "L$from.resid_post@$at" \
                --metric logit_diff --per-prompt
            awk -F'\t' -v to=$to -v from=$from '
                $1 == "metric" && $2 != "" { if ($3 == "base") base[$2] = $5; if ($3 == "edited") new[$2] = $5 }
                END { for (i in base) { n++; s += new[i] - base[i] }
                      if (n < 2) exit 1
                      m = s / n; for (i in base) v += (new[i] - base[i] - m) ^ 2
                      print to, from, m, sqrt(v / (n - 1) / n) }' "$dir/tsv" >> "$dir/pairs" ||
                no "$data needs two rows at least"
            from=$((from + 1))
        done
        to=$((to + 1))
    done
    awk -v title="$title" -v L="$layers" '
        { m[$1, $2] = $3; e[$1, $2] = $4 }
        END { printf "h_to := h_from, %s: change of the logit difference +- SE\n  to\\from", title
              for (f = 0; f < L; f++) printf "%15s", "L" f
              print ""
              for (t = 0; t < L; t++) { printf "  L%-6d", t
                  for (f = 0; f < L; f++) printf "%8.2f +- %.2f", m[t, f], e[t, f]
                  print "" } }' "$dir/pairs"
done
