#!/bin/sh
# The tables and numbers of wild.md. From the root of the repository:
#
#   sh labs/key/wild.sh TABLE         a table for --data, on standard output:
#       swap        tests/data/ioi.tsv: the source has the other giver
#       fetch       the source has a third name in the answer's place, and versus is that name
#       names       the answer against the 27 names that the prompt does not have
#       giver       the giver against them
#       after TEXT  swap, with a text behind the giver in which IO stands for the answer
#       way TEXT    swap, with TEXT for what leads to the place ("went to", "had a lot of fun at")
#       abc         tests/data/ioi_abc.tsv, where a third gives
#     all with a column P: the preposition before the place ("went to the store"), four tokens
#     before the giver in every template
#   sh labs/key/wild.sh one TABLE GROUP        the rows of one template
#   sh labs/key/wild.sh numbers EDIT…          four numbers under an edit (MODEL=tiny.safetensors …)
#   sh labs/key/wild.sh circuit TABLE LIST     --circuit in each of the 16 templates: mean and error
#   sh labs/key/wild.sh looks POS              where each head looks from POS, mean of all prompts
mi=./mi model=${MODEL:-wild.safetensors} data=tests/data/ioi.tsv tab=$(printf '\t')
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT

table() {
    [ "$1" != abc ] || { awk -F '\t' -v OFS='\t' '{ print $0, NR == 1 ? "P" : $7 - 4 }' tests/data/ioi_abc.tsv; return; }
    awk -F '\t' -v OFS='\t' -v kind="$1" -v text="$2" '
        NR == FNR { if (FNR > 1 && !seen[$2]++) name[n++] = $2; next }
        FNR == 1 { print $0, "P"; next }
        {
            io = $2; s = $3
            if (kind == "names" || kind == "giver") {
                $3 = ""
                for (i = 0; i < n; i++)
                    if (name[i] != io && name[i] != s) $3 = $3 ($3 == "" ? "" : "|") name[i]
                if (kind == "giver") $2 = s
            } else if (kind == "fetch") {
                for (i = FNR; name[i % n] == io || name[i % n] == s; i++) ;
                $3 = name[i % n]
                $4 = $1; sub(io, $3, $4)
            } else if (kind == "after") {
                for (end = length($1); substr($1, end, length(s)) != s; end--) ;
                end += length(s)
                more = text; gsub(" IO", io, more)
                $1 = substr($1, 1, end - 1) more substr($1, end); $4 = ""
            } else if (kind == "way") {
                sub(/ (went to|had a lot of fun at|were working at|at) the/, " " text " the", $1); $4 = ""
            }
            print $0, $8 - 4
        }' "$data" "$data"
}
groups() { cut -f 5 "$data" | sed 1d | sort -u; }
of_group() { grep -e ^prompt -e "$tab$1$tab"; }

case $1 in
one) table "$2" | of_group "$3" ;;
numbers)
    shift
    for t in swap names giver; do
        table $t | "$mi" -m "$model" --data - "$@" --tsv >"$work/$t" || exit 1
    done
    awk -F '\t' '
        $2 == "" && ($3 == "edited" || $3 == "base") { v[FILENAME, $1, $3] = sprintf("%.2f ± %.2f", $5, $6) }
        END {
            how = ((ARGV[1], "metric", "edited") in v) ? "edited" : "base"
            printf "IO - S %s   IO - absent %s   S - absent %s   IO first %s\n", v[ARGV[1], "metric", how],
                v[ARGV[2], "metric", how], v[ARGV[3], "metric", how], v[ARGV[1], "accuracy", how]
        }' "$work/swap" "$work/names" "$work/giver" ;;
circuit)
    for g in $(groups); do
        table "$2" | of_group "$g" | "$mi" -m "$model" --data - --circuit "$3" --tsv || exit 1
    done | awk -F '\t' '
        $2 == "" && ($1 == "circuit" || $1 == "faithfulness") {
            key = sprintf("%-13s %s", $1, $3)
            if (!(key in n)) order[rows++] = key
            n[key]++; sum[key] += $5; squares[key] += $5 * $5
        }
        END {
            for (i = 0; i < rows; i++) {
                key = order[i]; m = sum[key] / n[key]
                printf "%-34s %+.2f ± %.2f\n", key, m, sqrt((squares[key] / n[key] - m * m) / (n[key] - 1))
            }
        }' ;;
looks)
    for g in $(groups); do
        table swap | of_group "$g" >"$work/rows"
        set -- looks "$2" $(sed -n 2p "$work/rows" | cut -f 6-9)
        case $2 in P) at=$6 ;; S2) at=$5 ;; *) at=$2 ;; esac
        "$mi" -m "$model" --data "$work/rows" --attn "L*H*@$at" --tsv | awk -F '\t' -v keys="$3 $4 $6 $5" '
            BEGIN { split(keys, key, " "); split("IO S1 P S2", name, " ") }
            $2 == "" && sub(/^pattern /, "", $1) {
                for (i in key) if ($4 + 0 == key[i]) print $1, name[i], $5
            }'
    done | awk '
        { sum[$1, $2] += $3 / 16; head[$1] }
        END {
            for (h in head)
                printf "%s   IO %.2f   S1 %.2f   P %.2f   S2 %.2f\n", h, sum[h, "IO"], sum[h, "S1"],
                    sum[h, "P"], sum[h, "S2"]
        }' | sort ;;
*) table "$@" ;;
esac
