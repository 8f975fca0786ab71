# lab.sh - what the labs in shell share: the program $mi ($MI, ./mi or build/mi), an empty folder
# $dir that goes at the end, and runs of mi whose failure is the lab's, in one line.
set -e
mi=${MI:-./mi}
[ -n "${MI:-}" ] || [ -x ./mi ] || mi=build/mi
LC_ALL=C
export LC_ALL
no() {                              # what was typed is wrong
    echo "${0##*/}: $*" >&2
    exit 2
}
[ -x "$mi" ] || no "$mi is not there: run make first, or set MI"
dir=$(mktemp -d "${TMPDIR:-/tmp}/mi-lab-XXXXXX") || exit 1
trap 'rm -rf "$dir"' EXIT
trap 'exit 1' HUP INT PIPE TERM
run() {                             # ARGUMENT...: mi's table is in $dir/tsv
    "$mi" "$@" --tsv > "$dir/tsv" 2> "$dir/err" && return
    status=$?
    head -n 1 "$dir/err" >&2
    exit $status
}
value() {                           # ROW: "value se" of the metric
    awk -F'\t' -v row="$1" '$1 == "metric" && $3 == row { print $5, $6 + 0; found = 1; exit }
        END { exit !found }' "$dir/tsv" || { echo "${0##*/}: mi gives no metric of $1" >&2; exit 1; }
}
shape() {                           # $layers and $heads of the model, from its first line
    "$mi" "$@" --explain > "$dir/shape" 2> "$dir/err" || { status=$?; head -n 1 "$dir/err" >&2; exit $status; }
    layers=$(sed -n '1s/.*: \([0-9]*\) layers.*/\1/p' "$dir/shape")
    heads=$(sed -n '1s/.* \([0-9]*\) heads.*/\1/p' "$dir/shape")
}
rewrite() {                         # TABLE PROGRAM: its rows to stdout, prompt and source by $p and $s of awk
    awk -F'\t' 'BEGIN { OFS = FS }
        NR == 1 { for (i = 1; i <= NF; i++) { if ($i == "prompt") p = i; if ($i == "source") s = i }
                  if (!p || !s) exit 1; print; next }
        { '"$2"'; print }' "$1" || no "$1 needs the columns prompt and source"
}
