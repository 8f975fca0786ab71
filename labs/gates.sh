#!/bin/sh
# gates.sh - do two heads work as AND, OR, ADDER or as a CHAIN?
#
#     labs/gates.sh A B --source TEXT [-m MODEL] [--answer TOKEN --versus TOKEN] [PROMPT]
#     labs/gates.sh A B --tokens IDS --source-tokens IDS ...
#
# f11 is the logit difference with both heads as in the prompt, f00 with both as in the source, f10
# and f01 with only A or only B as in the prompt; all else is the prompt's (noising) or the source's
# (denoising). In each, I = (f11 - f10 - f01 + f00) / |f11 - f00|, signed so that f11 > f00:
#     AND +1, +1    OR -1, -1    ADDER 0, 0    CHAIN +1, -1 (one breaks it, one restores it)
# and a name is given within 1/4 (Chen et al., 2505.10039; six runs). Control: two other heads, at
# random; |f11 - f00| says whether the two together do anything at all (less than .01: no name).
. "$(dirname "$0")/lab.sh"
[ $# -ge 2 ] || no "two heads first: gates.sh L0H0 L0H1 --source TEXT"
A=$1 B=$2 prompt= source= sources=--source pairs=5
shift 2
for head in "$A" "$B"; do
    echo "$head" | grep -q '^L[0-9][0-9]*H[0-9][0-9]*$' || no "$head is not a head such as L0H1"
done
[ "$A" != "$B" ] || no "$A twice"
answer= versus= given=text
while [ $# -gt 0 ]; do
    case $1 in
    -m|--source|--source-tokens|--tokens|--answer|--versus) [ $# -gt 1 ] || no "$1 needs a value" ;;
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
    esac
    shift 2
done
[ -n "$source" ] && [ -n "$prompt" ] || no "a prompt and a source are needed"
[ -n "$answer" ] && [ -n "$versus" ] || no "--answer and --versus are needed"
[ -z "${MI_MODEL:-}" ] || [ -f "$MI_MODEL" ] || no "$MI_MODEL: no such file"
[ $given = text ] || [ $sources = --source-tokens ] || no "--tokens needs --source-tokens"
[ $given = tokens ] || [ $sources = --source ] || no "--source-tokens needs --tokens"
look() {                            # PROMPT SOURCE SITES
    if [ $given = tokens ]; then run --tokens "$1" --source-tokens "$2" --answer "$answer" --versus "$versus" --patch "$3" -k 0
    else run "$1" --source "$2" --answer "$answer" --versus "$versus" --patch "$3" -k 0; fi
}
gate() {                            # A B: the six runs, one line
    look "$prompt" "$source" "$2"; n11=$(value base); n10=$(value edited)
    look "$prompt" "$source" "$1"; n01=$(value edited)
    look "$prompt" "$source" "$1,$2"; n00=$(value edited)
    look "$source" "$prompt" "$1"; d00=$(value base); d10=$(value edited)
    look "$source" "$prompt" "$2"; d01=$(value edited)
    look "$source" "$prompt" "$1,$2"; d11=$(value edited)
    echo "$1 $2 ${n11% *} ${n10% *} ${n01% *} ${n00% *} ${d11% *} ${d10% *} ${d01% *} ${d00% *}"
}
if [ $given = tokens ]; then shape --tokens "$prompt"; else shape "$prompt"; fi
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
    function interaction(a, b, c, d) { return (a - d) ^ 2 < .0001 ? "-" : (a - b - c + d) / (a - d) }
    BEGIN { print "two heads      noising  f11     f10     f01     f00       I   denoising  f11     f10     f01     f00       I" }
    NR == 2 { print "control: pairs of other heads, at random" }
    { n = interaction($3, $4, $5, $6); d = interaction($7, $8, $9, $10); k = kind(n) " " kind(d)
      name = "(between)"
      if (k == "1 1") name = "AND"
      if (k == "-1 -1") name = "OR"
      if (k == "1 -1") name = "CHAIN"
      if (k == "0 0") name = "ADDER"
      if (n == "-" || d == "-") name = "(no effect)"
      if (name == "ADDER" && (($4 - $6) ^ 2 < .0001 || ($5 - $6) ^ 2 < .0001)) name = "(one alone)"
      printf "%-6s %-6s %12.3f %7.3f %7.3f %7.3f %7s %14.3f %7.3f %7.3f %7.3f %7s  %s\n", $1, $2, $3, $4,
          $5, $6, n == "-" ? n : sprintf("%+.2f", n), $7, $8, $9, $10, d == "-" ? d : sprintf("%+.2f", d), name }
    END { if (NR < 2) print "control: none, the model has no two other heads" }' "$dir/gates"
