#!/bin/sh
# gates.sh - do two heads work as AND, OR, ADDER or as a CHAIN?
#
#     labs/gates.sh A B --source TEXT --answer TOKEN --versus TOKEN PROMPT
#     labs/gates.sh A B --source-tokens IDS --answer TOKEN --versus TOKEN --tokens IDS
#     labs/gates.sh A B --data FILE [--rows A-B]          and -m MODEL, with each of them
#
# f11 is the logit difference with both heads as in the prompt, f00 with both as in the source, f10
# and f01 with only A or only B as in the prompt; all else is the prompt's (noising) or the source's
# (denoising). In each, I = (f11 - f10 - f01 + f00) / |f11 - f00|, signed so that f11 > f00:
#     AND +1, +1    OR -1, -1    ADDER 0, 0    CHAIN +1, -1 (one breaks it, one restores it)
# and a name is given within 1/4 (Chen et al., 2505.10039; six runs). Over the rows of FILE the f are
# means, and I their ratio +- its SE (rows taken as independent; delta method). Control: two other
# heads, at random; |f11 - f00| says whether the two do anything at all (less than .01, or than 2 SE
# over rows: no name).
. "$(dirname "$0")/lab.sh"
[ $# -ge 2 ] || no "two heads first: gates.sh L0H0 L0H1 --source TEXT"
A=$1 B=$2 prompt= source= sources=--source pairs=5 data= rows=
shift 2
for head in "$A" "$B"; do
    echo "$head" | grep -q '^L[0-9][0-9]*H[0-9][0-9]*$' || no "$head is not a head such as L0H1"
done
[ "$A" != "$B" ] || no "$A twice"
answer= versus= given=text
while [ $# -gt 0 ]; do
    case $1 in
    -m|--source|--source-tokens|--tokens|--answer|--versus|--data|--rows) [ $# -gt 1 ] || no "$1 needs a value" ;;
    -*) no "$1 is not understood" ;;
    *) [ -z "$prompt" ] || no "a second prompt: $1"; prompt=$1; shift; continue ;;
    esac
    case $1 in
    -m) MI_MODEL=$2; export MI_MODEL ;;
    --source) source=$2 ;;
    --source-tokens) source=$2 sources=--source-tokens ;;
    --tokens) prompt=$2 given=tokens ;;
    --answer) answer=$2 ;;
    --versus) versus=$2 ;;
    --data) data=$2 ;;
    --rows) rows=$2 ;;
    esac
    shift 2
done
[ -z "${MI_MODEL:-}" ] || [ -f "$MI_MODEL" ] || no "$MI_MODEL: no such file"
if [ -n "$data" ]; then
    [ -z "$prompt$source$answer$versus" ] || no "--data brings its own prompts, sources and answers"
    [ -f "$data" ] || no "$data: no such file"
    cp "$data" "$dir/noise.tsv"
    rewrite "$data" 'x = $s; $s = $p; $p = x' > "$dir/denoise.tsv"
    shape x
else
    [ -z "$rows" ] || no "--rows are those of --data"
    [ -n "$source" ] && [ -n "$prompt" ] || no "a prompt and a source are needed"
    [ -n "$answer" ] && [ -n "$versus" ] || no "--answer and --versus are needed"
    [ $given = text ] || [ $sources = --source-tokens ] || no "--tokens needs --source-tokens"
    [ $given = tokens ] || [ $sources = --source ] || no "--source-tokens needs --tokens"
    if [ $given = tokens ]; then shape --tokens "$prompt"; else shape "$prompt"; fi
fi
look() {                            # noise|denoise SITES BASE EDITED: two columns, a line for each prompt
    if [ -n "$data" ]; then run --data "$dir/$1.tsv" ${rows:+--rows "$rows"} --patch "$2" --metric logit_diff --per-prompt
    else
        x=$prompt y=$source
        [ "$1" = noise ] || { x=$source y=$prompt; }
        if [ $given = tokens ]; then run --tokens "$x" --source-tokens "$y" --answer "$answer" --versus "$versus" --patch "$2" -k 0
        else run "$x" --source "$y" --answer "$answer" --versus "$versus" --patch "$2" -k 0; fi
    fi
    for column in "base $3" "edited $4"; do
        awk -F'\t' -v row="${column% *}" -v table="$data" \
            '$1 == "metric" && $3 == row && (table == "") == ($2 == "") { print $5 }' "$dir/tsv" > "$dir/${column#* }"
    done
}
gate() {                            # A B: the six runs; lines A B n11 n10 n01 n00 d11 d10 d01 d00
    look noise "$2" n11 n10
    look noise "$1" n11 n01
    look noise "$1,$2" n11 n00
    look denoise "$1" d00 d10
    look denoise "$2" d00 d01
    look denoise "$1,$2" d00 d11
    (cd "$dir" && paste -d ' ' n11 n10 n01 n00 d11 d10 d01 d00) | sed "s/^/$1 $2 /"
}
gate "$A" "$B" > "$dir/gates"
awk -v L="$layers" -v H="$heads" -v A="$A" -v B="$B" -v want=$pairs 'BEGIN {
    for (l = 0; l < L; l++) for (h = 0; h < H; h++) {
        name = "L" l "H" h; if (name != A && name != B) other[n++] = name }
    for (i = 0; i < n; i++) for (j = i + 1; j < n; j++) pair[m++] = other[i] " " other[j]
    seed = 1                                        # the same pairs with every awk
    for (k = 0; k < want && m; k++) { seed = (seed * 16807) % 2147483647; r = seed % m
        print pair[r]; pair[r] = pair[--m] } }' > "$dir/others"
while read -r a b; do gate "$a" "$b" >> "$dir/gates"; done < "$dir/others"
awk 'function kind(x) { return x > .75 && x < 1.25 ? 1 : x < -.75 && x > -1.25 ? -1 : x ^ 2 < .0625 ? 0 : 9 }
    function mean(c) { return sum[p, c] / n[p] }
    # I of columns c (f11) to c + 3 (f00): "-" if there is nothing to divide by; se is its error
    function interaction(c,    over, I, k, e) {
        over = mean(c) - mean(c + 3); se = 0
        for (k = 1; k <= n[p]; k++) { e = f[p, k, c] - f[p, k, c + 3] - over; se += e * e }
        if (over ^ 2 < .0001 || n[p] > 1 && over ^ 2 < 4 * se / n[p] / (n[p] - 1)) return "-"
        se = 0
        I = (mean(c) - mean(c + 1) - mean(c + 2) + mean(c + 3)) / over
        for (k = 1; k <= n[p]; k++) {
            e = f[p, k, c] - f[p, k, c + 1] - f[p, k, c + 2] + f[p, k, c + 3] - I * (f[p, k, c] - f[p, k, c + 3])
            se += e * e }
        se = n[p] > 1 ? sqrt(se / n[p] / (n[p] - 1)) / sqrt(over ^ 2) : 0
        return I }
    function shown(I) { return I == "-" ? I : sprintf("%+.2f", I) (n[p] > 1 ? sprintf(" +- %.2f", se) : "") }
    { p = $1 " " $2; if (!(p in n)) order[++pairs] = p; n[p]++
      for (c = 3; c <= 10; c++) { f[p, n[p], c] = $c; sum[p, c] += $c } }
    END { wide = n[order[1]] > 1 ? 15 : 7
          I = "%" wide "s"
          printf "two heads      noising  f11     f10     f01     f00 " I "   denoising  f11     f10     f01     f00 " I "\n", "I", "I"
        for (i = 1; i <= pairs; i++) {
            if (i == 2) print "control: pairs of other heads, at random"
            p = order[i]; split(p, name_of, " ")
            N = interaction(3); noising = shown(N); D = interaction(7); denoising = shown(D); k = kind(N) " " kind(D)
            name = "(between)"
            if (k == "1 1") name = "AND"
            if (k == "-1 -1") name = "OR"
            if (k == "1 -1") name = "CHAIN"
            if (k == "0 0") name = "ADDER"
            if (N == "-" || D == "-") name = "(no effect)"
            if (name == "ADDER" && ((mean(4) - mean(6)) ^ 2 < .0001 || (mean(5) - mean(6)) ^ 2 < .0001)) name = "(one alone)"
            printf "%-6s %-6s %12.3f %7.3f %7.3f %7.3f " I " %14.3f %7.3f %7.3f %7.3f " I "  %s\n", name_of[1], name_of[2],
                mean(3), mean(4), mean(5), mean(6), noising, mean(7), mean(8), mean(9), mean(10), denoising, name }
        if (pairs < 2) print "control: none, the model has no two other heads" }' "$dir/gates"
