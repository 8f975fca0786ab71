#!/bin/sh
# make published: what has been published for the real GPT-2 (124M), and what mi computes from a
# model file, figure by figure. tests/published/README.md has the sources.
#
#     sh tests/published.sh [MODEL [WORDS]]      WORDS: only figures whose name contains them
#
# It passes no verdict on a file of which it does not know that it is GPT-2. A figure agrees if all
# of its cells are within the tolerance that its source justifies. Status 1 if some do not.
mi=${MI:-./mi}
model=${1:-gpt2.safetensors}
only=${2:-}
data=$(dirname "$0")/published
tab=$(printf '\t')
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
trap 'exit 1' HUP INT TERM
[ -r "$model" ] || { echo "published.sh: no model \"$model\": make gpt2" >&2; exit 2; }

# Every side of a comparison is a list of "key value".

# FILE, a matrix -> L<row>H<column>, L<row>@<column>, or L<layer>H<head>@<column>
matrix() {
    awk -F'\t' -v kind="$2" '!/^#/ {
        for (i = 1; i <= NF; i++) {
            if (kind == "heads") key = "L" n + 0 "H" i - 1
            else if (kind == "positions") key = "L" n + 0 "@" i - 1
            else key = "L" int(n / 12) "H" n % 12 "@" i - 1
            print key "\t" $i
        }
        n++ }' "$data/$1"
}

# FILE, names and values, with the names that mi gives
named() {
    sed -E '/^#/d; s/^([0-9]+)_/L\1./; s/^[a-z]+_post/end/' "$data/$1"
}

# ARGUMENTS -> $dir/tsv, what mi says to them
run() {
    "$mi" -m "$model" --tsv "$@" > "$dir/tsv" 2> "$dir/error" ||
        { sed -n 1p "$dir/error" > "$dir/failed"; return 1; }
}

# TABLE [COLUMN [DIVISOR]] -> address and value, the site left out where it is in the name
cells() {
    awk -F'\t' -v table="$1" -v column="$2" -v by="${3:-1}" '
        $1 == table && (column == "" || $4 == column) && $8 != "" {
            key = $8
            if (column == "") sub(/\.[a-z_]+/, "", key)
            print key "\t" $5 / by }' "$dir/tsv"
}

# RUN [each] -> its metric: the mean, or of each row of the table
metric() {
    awk -F'\t' -v run="$1" -v each="$2" '$1 == "metric" && $3 == run && ($2 != "") == (each != "") {
        print (each ? "row " $2 : "mean") "\t" $5 }' "$dir/tsv"
}

difference() { awk -F'\t' '$1 == "metric" && $2 == "" { m[$3] = $5 }
                           END { print m["source"] - m["base"] }' "$dir/tsv"; }

# NAME TOLERANCE: the lines of $dir/published and $dir/here, compared
compare() {
    n=$((n + 1))
    if [ -s "$dir/failed" ]; then
        printf '%-34s not computed: %s\n' "$1" "$(cat "$dir/failed")"
        broken=$((broken + 1))
        return
    fi
    awk -F'\t' -v name="$1" -v most="$2" '
        function size(x) { return x < 0 ? -x : x }
        NR == FNR { here[$1] = $2; n_here++; next }
        { n++
          if (!($1 in here)) { missing = missing ? missing : $1; next }
          if (!at || size($2) > size(published)) { at = $1; published = $2 }
          d = here[$1] - $2
          if (!far || size(d) > size(off)) { far = $1; off = d } }
        END {
            if (missing || n != n_here || !n) {
                printf "%-34s not computed: %d cells here, %d published%s\n", name, n_here, n,
                       missing ? "; none here is " missing : ""
                exit 2
            }
            printf "%-34s %5d %12s %9.4f %9.4f %9.1e %-9s %s\n", name, n, at, published, here[at],
                   off, far, size(off) <= most ? "agrees" : "differs"
            exit size(off) > most
        }' "$dir/here" "$dir/published"
    case $? in 0) agree=$((agree + 1)) ;; 1) ;; *) broken=$((broken + 1)) ;; esac
}

asked() { case $1 in *"$only"*) rm -f "$dir/failed"; : > "$dir/here" ;; *) return 1 ;; esac; }

# The eight prompts as they are, and from the other giver: what is patched, and in which run.
clean=$data/ioi8.tsv
corrupt=$dir/corrupt.tsv
awk -F'\t' -v OFS='\t' 'NR > 1 { x = $1; $1 = $4; $4 = x } { print }' "$clean" > "$corrupt"
n=0 agree=0 broken=0

echo "What is published for GPT-2 (124M), and what $model gives. Other weights give other numbers."
printf '\n%-34s %5s %12s %9s %9s %9s %-9s\n' figure cells largest published here difference at

# PROMPT: the ten likeliest next tokens, as the metric of ten rows
next_tokens() {
    asked "next tokens: $1" || return
    awk -F'\t' -v prompt="$1" '$1 == prompt { print "row " ++n "\t" $3 }' \
        "$data/next_tokens.tsv" > "$dir/published"
    awk -F'\t' -v prompt="$1" -v OFS='\t' 'BEGIN { print "prompt", "answer" }
        $1 == prompt { print $1, "#" $2 }' "$data/next_tokens.tsv" > "$dir/table"
    run --metric prob --data "$dir/table" && metric base each > "$dir/here"
    compare "next tokens: $(printf %.20s "$1")" 1e-3
}
grep -v '^#' "$data/next_tokens.tsv" | cut -f1 | uniq > "$dir/prompts"
while IFS= read -r prompt; do next_tokens "$prompt"; done < "$dir/prompts"

# NAME TOLERANCE PUBLISHED RUN ARGUMENTS: one number
single() {
    asked "$1" || return
    name=$1 tolerance=$2 of=$4
    printf 'mean\t%s\n' "$3" > "$dir/published"
    shift 4
    run "$@" && metric "$of" | grep "^mean" > "$dir/here"
    compare "$name" "$tolerance"
}
milk="After John and Mary went to the store, John gave a bottle of milk to"
for pair in Mary:.7007 the:.0467 John:.0454 them:.0411; do
    single "milk: ${pair%:*}" 1e-4 "${pair#*:}" base --bos "$milk" --metric prob \
        --answer " ${pair%:*}"
done
set -- "Claire and Mary went to the shops, then Mary gave a bottle of milk to" \
    --answer " Claire" --versus " Mary"
single "Claire: logit difference" 1e-3 6.754 base "$@" --bos
single "Claire: without --bos" 1e-3 2.782 base "$@"
single "Hello world!: mean loss" 1e-4 5.331856 base "Hello world!" --bos --metric loss

# Each token that was written has rank 1 after those before it.
if asked "The dog: greedy"; then
    set -- 464 3290 373 1043 287 257 2214 1474 262 16246 286 2688 290 2688 27262 13 198 198 464 3290
    tokens="$1 $2" i=0
    shift 2
    printf 'tokens\tanswer\n' > "$dir/table"
    : > "$dir/published"
    for next in "$@"; do
        i=$((i + 1))
        printf '%s\t#%s\n' "$tokens" "$next" >> "$dir/table"
        printf 'row %d\t1\n' $i >> "$dir/published"
        tokens="$tokens $next"
    done
    run --data "$dir/table" --metric rank && metric base each > "$dir/here"
    compare "The dog: greedy, rank" 0
fi

if asked "IOI: logit differences"; then
    printf 'row %d\t%s\n' 1 3.337 2 3.202 3 2.709 4 3.797 5 1.720 6 5.281 7 2.601 8 5.767 \
        > "$dir/published"
    run --bos --data "$clean" && metric base each > "$dir/here"
    compare "IOI: logit differences" 1e-3
fi
single "IOI: mean" 1e-3 3.552 base --bos --data "$clean"
single "IOI: corrupted" 1e-3 -3.552 base --bos --data "$corrupt"
single "IOI: L9H9 off at the end" 1e-3 2.917 edited --bos --data "$clean" --ablate L9H9@-1=tlzero

# SITE FILE KIND ADDRESSES: patches of the clean run into the corrupted one, as shares
patch() {
    asked "patch: $1" || return
    matrix "ioi8_actpatch_$2.tsv" "$3" > "$dir/published"
    run --bos --data "$corrupt" --patch "$4" --each && cells change > "$dir/here"
    compare "patch: $1" 1e-3
}
# the same from gradients in the corrupted run
attribute() {
    asked "attribution: $1" || return
    matrix "ioi8_attrpatch_$2.tsv" "$3" > "$dir/published"
    run --bos --data "$corrupt" --attribute "$4" &&
        cells attribution '' "$(difference)" > "$dir/here"
    compare "attribution: $1" 1e-3
}
by_position() { for site in resid_pre attn_out mlp_out; do $1 "$site by position" ${site}_layer_pos positions "L*.$site@*"; done; }
by_head() { for site in z q k v pattern; do $1 "$site" head_${site}_allpos heads "L*H*.$site"; done; }
by_position patch
by_head patch
for site in z q k v pattern; do
    patch "$site by position" head_${site}_bypos both "L*H*.$site@*"
done
by_position attribute
by_head attribute

# Without LN_f's biases, which TransformerLens counts with W_U: over two names both ways they are 0.
# NAME FILE RUN EDIT...: the direct logit attribution of each head
dla() {
    asked "$1" || return
    name=$1 of=$3
    matrix "$2" heads > "$dir/published"
    shift 3
    run --bos --data "$clean" --dla "$@" && cells dla "$of" | grep H > "$dir/here"
    compare "$name" 1e-3
}
dla "logits: heads" ioi8_head_dla.tsv base
dla "logits: heads without L9H9" ioi8_head_dla_after_L9H9_final_zero.tsv edited --ablate L9H9@-1=tlzero
if asked "logits: layers"; then
    named ioi8_layer_dla.tsv > "$dir/published"
    run --bos --data "$clean" --dla=layers && cells dla base > "$dir/here"
    compare "logits: layers" 1e-3
fi
if asked "logits: stream by depth"; then          # with the end's sigma: what was added so far
    named ioi8_accumulated_resid_logitdiff.tsv > "$dir/published"
    run --bos --data "$clean" --dla=layers && cells dla base | awk -F'\t' '
        /attn_out/ { key = $1; sub(/attn_out/, "pre", key); print key "\t" sum }
        /mlp_out/  { key = $1; sub(/mlp_out/, "mid", key); print key "\t" sum }
        { sum += $2 }
        END { print "end\t" sum }' > "$dir/here"
    compare "logits: stream by depth" 1e-3
fi

# The tokens are other random ones than the published scores were measured on.
for score in induction previous duplicate; do
    asked "random tokens: $score" || continue
    matrix randrep_${score}_scores.tsv heads > "$dir/published"
    [ -s "$dir/heads" ] || { run --heads 100 && cp "$dir/tsv" "$dir/heads"; }
    cp "$dir/heads" "$dir/tsv" 2>/dev/null && cells $score > "$dir/here"
    compare "random tokens: $score" .05
done

[ $n -gt 0 ] || { echo "published.sh: no figure's name contains \"$only\"" >&2; exit 2; }
printf '\n%d of %d figures agree; %d could not be computed\n' $agree $n $broken
[ $agree -eq $n ]
