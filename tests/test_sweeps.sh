#!/bin/sh
# test_sweeps.sh - --each of $MI (./mi) is one run per cell: every number of a swept table is the
# metric of the same command for that cell alone, digit by digit. Then --trace and --data, which are
# made of such runs. Run it from the repository root.
#
# The model is tests/golden/odd7.safetensors: 3 layers, 3 heads of 7, 84 neurons, 53 tokens (the
# characters ! to U).

. tests/scratch.sh
MI_MODEL=tests/golden/odd7.safetensors
export MI_MODEL

check() { if [ -z "$2" ]; then ok; else bad "sweep $1" "$2"; fi; }   # NAME WHY, empty if all is well

prompt="33 34 35 36 33 37" source="33 34 38 36 33 39"   # equal at 0, 1, 3 and 4

# TEMPLATE VALUES...: the cells of a table, row by row: each * becomes each of its values in turn,
# the last fastest. A key after its query is "-".
expand() {
    template=$1
    shift
    for axis; do printf '%s;' "$axis"; done | awk -v template="$template" '
        { n = split($0, axis, ";") - 1 }
        function cells(text, i,    values, k, count, head) {
            if (i > n) {
                split(text, part, /[@:]/)
                later = part[3] != "" && part[3] + 0 > part[2] + 0
                print (later ? "-" : text)
                return
            }
            count = split(axis[i], values, " ")
            head = index(text, "*")
            for (k = 1; k <= count; k++)
                cells(substr(text, 1, head - 1) values[k] substr(text, head + 1), i + 1)
        }
        END { cells(template, 1) }'
}

# With {} in the arguments standing for the swept argument: run mi, its output to $dir/$out.
run() {                             # OUT FORMAT CELL ARGUMENT...
    out=$1 format=$2 cell=$3
    shift 3
    for argument; do
        case $argument in
        {}) set -- "$@" "$cell" ${each:+--each} ;;
        *) set -- "$@" "$argument" ;;
        esac
        shift
    done
    "$mi" "$@" "$format" -k 1 >> "$dir/$out" 2>> "$dir/err" < /dev/null
}

# The metric of a run, from lines of JSON, and one for each output of --tsv in a file
json_metric() { sed -n "s/^\.tables\.metric\.values\[$1\].*=//p" "$dir/$2"; }      # RUN FILE
metrics() {                         # RUN FILE
    awk -F'\t' -v run="$1" '$1 == "metric" && $2 == "" && $3 == run { sub(/nan/, "null", $5); print $5 }' \
        "$dir/$2"
}

# NAME SWEPT CELLS ARGUMENT...: the grid of --each is what single runs give. A table of patches
# also has its normalized values: (x - held) / (source - held).
each() {
    name=$1 swept=$2 cells=$3
    shift 3
    : > "$dir/sweep"; : > "$dir/single"; : > "$dir/err"
    each=yes run sweep --json "$swept" "$@" --threads 2
    awk -f tests/json.awk "$dir/sweep" > "$dir/json"
    sed -n 's/^\.tables\.cells\.values.*=//p' "$dir/json" > "$dir/got"
    printf '%s\n' "$cells" > "$dir/cells"
    while IFS= read -r cell; do
        case $cell in
        -) printf 'metric\t\tedited\t\tnull\n' >> "$dir/single" ;;
        *) each= run single --tsv "$cell" "$@" --threads 1 ;;
        esac
    done < "$dir/cells"
    metrics edited single > "$dir/want"
    check "$name" "$(paste "$dir/cells" "$dir/got" "$dir/want" | awk -F '\t' '
        $2 == "" || $3 == "" { print "not as many cells as runs, from " $1 " on: " $2 " / " $3; exit }
        $2 != $3 { print $1 " is " $2 ", alone " $3; exit }
        $2 != "null" && $2 != first { different = 1 }
        NR == 1 { first = $2 }
        END { if (NR < 2) print "only " NR " cells" ; else if (!different) print "all cells are " first }
        '; head -n 1 "$dir/err")"
    changes "$name" "$*"
}

# Of the table in $dir/json: a patch's changes are (x - held) / (source - held), others x - held.
changes() {                         # NAME ARGUMENTS
    check "$1: change" "$(awk -F = -v patch="$(expr " $2 " : '.* --patch {} ')" '
        /^\.tables\.metric\.values\[base\]/ { if (held == "") held = $2 }
        /^\.tables\.metric\.values\[held\]/ { held = $2 }
        /^\.tables\.metric\.values\[source\]/ { source = $2 }
        /^\.tables\.cells\.values/ { value[++n] = $2 }
        /^\.tables\.change\.values/ { got[++m] = $2 }
        END {
            if (!n || n != m) print n + 0 " values, " m + 0 " changes"
            for (i = 1; i <= n; i++) {
                if (value[i] == "null") continue
                want = (value[i] - held) / (patch ? source - held : 1)
                off = got[i] - want
                if (got[i] == "null" || off > 2e-6 || -off > 2e-6) {
                    print "cell " i " is " got[i] ", not " want; exit
                }
            }
        }' "$dir/json")"
}

L="0 1 2" H="0 1 2" T="0 1 2 3 4 5"

# ---- Each intervention, over layers, heads, neurons and positions

plain() {                           # NAME SWEPT CELLS ARGUMENT...: with prompt and answers
    plain_name=$1 plain_swept=$2 plain_cells=$3
    shift 3
    each "$plain_name" "$plain_swept" "$plain_cells" --tokens "$prompt" --answer '#5' --versus '#9' "$@"
}
ablate() { plain "--ablate $1" "$1" "$2" --ablate {}; }

ablate heads "$(expand 'L*H*' "$L" "$H")"
ablate 'L*H*=mean' "$(expand 'L*H*=mean' "$L" "$H")"
ablate 'L*H*=tlzero' "$(expand 'L*H*=tlzero' "$L" "$H")"
ablate 'L*.mlp_out@*' "$(expand 'L*.mlp_out@*' "$L" "$T")"
ablate mlps "$(expand 'L*.mlp_out' "$L")"
ablate 'L1H*@2-4' "$(expand 'L1H*@*' "$H" '2 3 4')"
ablate 'L0-1H1-2.v@-1' "$(expand 'L*H*.v@-1' '0 1' '1 2')"
ablate 'L2H0@*' "$(expand 'L2H0@*' "$T")"
ablate 'L1N3-8' "$(expand 'L1N*' '3 4 5 6 7 8')"
ablate 'L*N5-6@-1' "$(expand 'L*N*@-1' "$L" '5 6')"
ablate 'blocks.1.attn.hook_z@*' "$(expand 'L1.z@*' "$T")"
ablate 'embed@*' "$(expand 'embed@*' "$T")"
ablate 'L*.ln2@*=mean' "$(expand 'L*.ln2@*=mean' "$L" "$T")"
plain '--scale' 'L*H*.q=0.5' "$(expand 'L*H*.q=0.5' "$L" "$H")" --scale {}
plain '--scale with a range of positions' 'L*.resid_mid@1-5=-2' \
    "$(expand 'L*.resid_mid@*=-2' "$L" '1 2 3 4 5')" --scale {}
plain '--project' 'L*.resid_pre@*' "$(expand 'L*.resid_pre@*' "$L" "$T")" \
    --project {} --toward ABC --away ABD
plain '--steer' 'L*.resid_mid@*=2' "$(expand 'L*.resid_mid@*=2' "$L" "$T")" \
    --steer {} --toward ABC --away ABD
plain '--steer in a random direction' 'L*.attn_out@-1=2' "$(expand 'L*.attn_out@-1=2' "$L")" \
    --steer {} --direction random:3
plain '--freeze behind an edit' 'L*.mlp_out@*' "$(expand 'L*.mlp_out@*' "$L" "$T")" \
    --ablate embed@2 --freeze {}

# ---- Patches

patch() {                           # NAME SWEPT CELLS ARGUMENT...
    patch_name=$1 patch_swept=$2 patch_cells=$3
    shift 3
    plain "$patch_name" "$patch_swept" "$patch_cells" --source-tokens "$source" "$@"
}
patch '--patch resid_pre' 'L*.resid_pre@*' "$(expand 'L*.resid_pre@*' "$L" "$T")" --patch {}
patch '--patch halfway' 'L*.attn_out@*=0.5' "$(expand 'L*.attn_out@*=0.5' "$L" "$T")" --patch {}
patch '--patch heads' 'L*H*' "$(expand 'L*H*' "$L" "$H")" --patch {}
patch '--patch pattern' 'L*H*.pattern@-1' "$(expand 'L*H*.pattern@-1' "$L" "$H")" --patch {}
patch '--patch, read before the end' 'L*.resid_post@*' "$(expand 'L*.resid_post@*' "$L" "$T")" \
    --patch {} --at 3
each '--patch, the other way round' 'L*.mlp_out@*' "$(expand 'L*.mlp_out@*' "$L" "$T")" \
    --tokens "$source" --source-tokens "$prompt" --answer '#5' --versus '#9' --patch {}

# ---- Three axes, keys, lists

plain '--ablate, three axes' 'L*H*@*' "$(expand 'L*H*@*' "$L" "$H" "$T")" --ablate {}
awk -v want='.tables.change.rows[5] .tables.change.rows[9] .tables.change.cols[5] .tables.change.cols[6]
    .tables.cells.values[8][5] .tables.cells.values[9][0]' \
    -f tests/json.awk "$dir/sweep" > "$dir/shape"
case $(cat "$dir/shape") in
'"L1H2" - "5 F" - '*' -') ok ;;
*) bad "--ablate, three axes: its shape" "$(cat "$dir/shape")" ;;
esac
plain '--knockout, query by key' 'L1H2@*:*' "$(expand 'L1H2@*:*' "$T" "$T")" --knockout {}
awk -v want='.tables.cells.values[2][2] .tables.cells.values[2][3] .tables.cells.values[0][1]
    .tables.cells.values[5][5]' \
    -f tests/json.awk "$dir/sweep" > "$dir/shape"
case $(cat "$dir/shape") in
null*) bad "--knockout: nulls" "the edge 2:2 exists" ;;
*" null null "*null) bad "--knockout: nulls" "the edge 5:5 exists" ;;
*" null null "*) ok ;;
*) bad "--knockout: nulls" "keys after the query are not null: $(cat "$dir/shape")" ;;
esac
plain '--knockout of one query' 'L*H*@-1:*' "$(expand 'L*H*@5:*' "$L" "$H" "$T")" --knockout {}
plain '--knockout of one key' 'L*H1@*:2' "$(expand 'L*H1@*:2' "$L" "$T")" --knockout {}
plain '--knockout, four axes' 'L0-1H0-1@2-4:1-4' \
    "$(expand 'L*H*@*:*' '0 1' '0 1' '2 3 4' '1 2 3 4')" --knockout {}
plain '--ablate of a pattern' 'L2H0.pattern@*:*' "$(expand 'L2H0.pattern@*:*' "$T" "$T")" --ablate {}
plain '--ablate of a list' 'L0H1,L2H2@-1,L1.mlp_out,L2N7@1-2' \
    "L0H1
L2H2@-1
L1.mlp_out
L2N7@1
L2N7@2" --ablate {}
plain '--ablate of a list with a value' 'L0H1,L2H*@*=mean' \
    "L0H1=mean
$(expand 'L2H*@*=mean' "$H" "$T")" --ablate {}
plain '--ablate of all but some' 'not:L0H0,L1H*' \
    "L0H1
L0H2
L2H0
L2H1
L2H2" --ablate {}

# ---- Held edits, before and after, at the same place and elsewhere

held() {                            # ARGUMENT...: held is what the other edits do alone
    : > "$dir/single"; : > "$dir/err"
    run single --tsv '' "$@"
    one=$(json_metric held json) two=$(metrics edited single)
    if [ -n "$two" ] && [ "$one" = "$two" ]; then ok
    else bad "held, $name" "is ${one:-missing}, not ${two:-a number} as in a run of its own"; fi
}
patch '--patch, held edits before and after' 'L*.mlp_out@*' "$(expand 'L*.mlp_out@*' "$L" "$T")" \
    --scale L1.mlp_out=2 --patch {} --ablate L1H0 --scale 'L*.mlp_out@3=0.5'
held --tokens "$prompt" --answer '#5' --versus '#9' --scale L1.mlp_out=2 --ablate L1H0 \
    --scale 'L*.mlp_out@3=0.5'
patch '--patch before a held edit' 'L*.resid_pre@*' "$(expand 'L*.resid_pre@*' "$L" "$T")" \
    --patch {} --scale L0-1.resid_pre=0.5
patch '--patch after a held edit' 'L*.resid_pre@*' "$(expand 'L*.resid_pre@*' "$L" "$T")" \
    --scale L0-1.resid_pre=0.5 --patch {}
plain '--scale between two ablations' 'L*.resid_mid@*=3' \
    "$(expand 'L*.resid_mid@*=3' "$L" "$T")" \
    --ablate L0H1 --ablate 'L1.resid_mid@2=mean' --scale {} --ablate 'L2.resid_mid@3'
plain '--ablate with knockouts held' heads "$(expand 'L*H*' "$L" "$H")" \
    --knockout 'L*H1@-1:0' --ablate {} --knockout 'L0H*@3:1-2'
held --tokens "$prompt" --answer '#5' --versus '#9' --knockout 'L*H1@-1:0' --knockout 'L0H*@3:1-2'

# ---- Metrics

for metric in prob logprob logit rank kl loss; do
    plain "--metric $metric" 'L*.attn_out@3-4' "$(expand 'L*.attn_out@*' "$L" '3 4')" \
        --ablate {} --metric $metric
done
plain '--metric kl, with a held edit' 'L*H*' "$(expand 'L*H*' "$L" "$H")" \
    --ablate {} --metric kl --scale L0.attn_out=1.5
plain '--at 2' 'L*.resid_post@*=1.5' "$(expand 'L*.resid_post@*=1.5' "$L" "$T")" --scale {} --at 2
each 'several answers' heads "$(expand 'L*H*' "$L" "$H")" --ablate {} --tokens "$prompt" \
    --answer '#5|#6' --versus '#9|#10|#11'

# ---- Noise: a mean over samples, each with its own held run

noise() {                           # NAME SWEPT CELLS ARGUMENT...
    noise_name=$1 noise_swept=$2 noise_cells=$3
    shift 3
    plain "$noise_name" "$noise_swept" "$noise_cells" --samples 3 --seed 5 "$@"
}
noise '--noise embed' 'embed@*=0.5' "$(expand 'embed@*=0.5' "$T")" --noise {}
noise '--noise in sigmas' 'embed@1-3=3s' "$(expand 'embed@*=3s' '1 2 3')" --noise {}
noise '--noise resid_mid' 'L*.resid_mid@*=0.3' "$(expand 'L*.resid_mid@*=0.3' "$L" "$T")" --noise {}
noise '--ablate under noise' heads "$(expand 'L*H*' "$L" "$H")" --noise embed@1-2=0.4 --ablate {}
held --tokens "$prompt" --answer '#5' --versus '#9' --noise embed@1-2=0.4 --samples 3 --seed 5
noise '--noise beside noise' 'L*.attn_out@*=0.2' "$(expand 'L*.attn_out@*=0.2' "$L" "$T")" \
    --noise embed@1=0.4 --noise {}
noise '--patch under noise' 'L*.resid_post@*' "$(expand 'L*.resid_post@*' "$L" "$T")" \
    --noise embed@2=1 --source same --patch {}

# ---- --trace and its long spelling

without_argv() { awk -f tests/json.awk "$1"; }
common="ABCDAB --answer #5 --versus #9 -k 1 --samples 4"
"$mi" $common --json --trace CD > "$dir/short" 2> "$dir/err"
"$mi" $common --json --noise 'embed@"CD"=3s' --source same --patch 'L*.resid_post@*' --each \
    > "$dir/long" 2>> "$dir/err"
without_argv "$dir/short" > "$dir/short.json"
without_argv "$dir/long" > "$dir/long.json"
check "--trace and its long spelling" "$(head -n 1 "$dir/err"; [ -s "$dir/long.json" ] || echo nothing
    diff "$dir/short.json" "$dir/long.json" | sed -n 2p)"
each '--trace, cell by cell' 'L*.resid_post@*' "$(expand 'L*.resid_post@*' "$L" "$T")" ABCDAB \
    --answer '#5' --versus '#9' --noise 'embed@"CD"=3s' --source same --patch {}
for kind in mlp attn; do            # two layers at a time: the cell's and the one below
    : > "$dir/err"; : > "$dir/single"
    "$mi" $common --json --trace CD --kind $kind --window 2 > "$dir/sweep" 2>> "$dir/err"
    awk -f tests/json.awk "$dir/sweep" | sed -n 's/^\.tables\.cells\.values.*=//p' > "$dir/got"
    for cell in $(expand "L*.${kind}_out@*" '0 0-1 1-2' "$T"); do
        "$mi" $common --tsv --noise 'embed@"CD"=3s' --source same --patch "$cell" >> "$dir/single" \
            2>> "$dir/err"
    done
    metrics edited single > "$dir/want"
    check "--trace --kind $kind --window 2" "$(head -n 1 "$dir/err"; [ -s "$dir/want" ] || echo nothing
        diff "$dir/got" "$dir/want" | sed -n '2p;4p')"
done

# ---- --data: means and standard errors over rows, clustered by group

# Each line is a row of numbers "group value": their mean and its standard error. Rows of a group
# count as one cluster: sqrt(sum over groups of (sum of deviations)^2 * G / (G - 1)) / n.
statistics() {
    awk '{ group[NR] = $1; value[NR] = $2; sum += $2 }
        END {
            mean = sum / NR
            for (i = 1; i <= NR; i++) inside[group[i]] += value[i] - mean
            for (g in inside) { squares += inside[g] ^ 2; n++ }
            if (n > 1) printf "%.9g %.9g\n", mean, sqrt(squares * n / (n - 1)) / NR
            else printf "%.9g null\n", mean
        }'
}
near() {                            # NAME GOT WANT: words that are numbers, equal to 1e-7
    check "$1" "$(printf '%s\n%s\n' "$2" "$3" | awk '
        NR == 1 { n = split($0, got, " ") }
        NR == 2 {
            m = split($0, want, " ")
            if (n != m || !n) { print n + 0 " numbers, not " m + 0; exit }
            for (i = 1; i <= n; i++) {
                off = got[i] - want[i]; size = want[i] < 0 ? -want[i] : want[i]
                if ((got[i] == "null") != (want[i] == "null") || got[i] == "-" ||
                    off > 1e-7 * (1 + size) || -off > 1e-7 * (1 + size)) {
                    print "number " i " is " got[i] ", not " want[i]; exit
                }
            }
        }')"
}
ask() { awk -v want="$1" -f tests/json.awk "$dir/data"; }      # PATHS
tab=$(printf '\t')
table() {                           # FILE GROUP...: the first rows of the table, in these groups
    file=$1
    shift
    {
        echo "prompt${tab}source${tab}answer${tab}versus${tab}S2${tab}group"
        for group; do
            row=$((row + 1))
            case $row in
            1) echo "ABCABD${tab}ABEABD${tab}#5${tab}#9${tab}2${tab}$group" ;;
            2) echo "FGHFGA${tab}FGHFBA${tab}#7${tab}#3${tab}4${tab}$group" ;;
            3) echo "CADDAC${tab}KADDAM${tab}#20${tab}#30${tab}0${tab}$group" ;;
            4) echo "HIJKLM${tab}HIJKLM${tab}#1${tab}#40${tab}5${tab}$group" ;;
            esac
        done
        row=0
    } > "$dir/$file"
}
base='.tables.metric.values[base][0]' held='.tables.metric.values[held][0]'
edited='.tables.metric.values[edited][0]' from='.tables.metric.values[source][0]'
row=0
table two.tsv a b
table three.tsv a b a
table four.tsv a b a b
table alone.tsv a a a

# The rows of a table as single runs: "group value" for one number of each, to $dir/values.
rows() {                            # FILE PATH ARGUMENT...: {S2} is the row's column
    file=$1 path=$2
    shift 2
    : > "$dir/values"; : > "$dir/row.err"
    sed 1d "$dir/$file" > "$dir/rows"
    while IFS=$tab read -r text donor answer versus s2 group; do
        (
            [ -z "$with_source" ] || set -- "$@" --source "$donor"
            for argument; do
                case $argument in
                *@S2*) set -- "$@" "${argument%%@S2*}@$s2${argument#*@S2}" ;;
                *) set -- "$@" "$argument" ;;
                esac
                shift
            done
            "$mi" "$text" --answer "$answer" --versus "$versus" "$@" --json -k 1 < /dev/null \
                > "$dir/row" 2>> "$dir/row.err"
            echo "$group $(awk -v want="$path" -f tests/json.awk "$dir/row")" >> "$dir/values"
        )
    done < "$dir/rows"
}
data() {                            # FILE ARGUMENT...
    file=$1
    shift
    "$mi" --data "$dir/$file" "$@" --json > "$dir/data" 2> "$dir/err" < /dev/null ||
        bad "--data $file $*" "$(head -n 1 "$dir/err")"
}

for file in two.tsv three.tsv four.tsv alone.tsv; do
    with_source=
    data $file --ablate L1H0
    for which in base edited; do
        rows $file ".tables.metric.values[$which][0]" --ablate L1H0
        near "--data $file: $which" "$(ask ".tables.metric.values[$which][0] .tables.metric.se[$which][0]" | sed 's/ -$/ null/')" \
            "$(statistics < "$dir/values")"
    done
done
data three.tsv --ablate L1.mlp_out@S2 --scale L2H0@S2=2
rows three.tsv $edited --ablate L1.mlp_out@S2 --scale L2H0@S2=2
near "--data with positions by column" "$(ask "$edited .tables.metric.se[edited][0]")" "$(statistics < "$dir/values")"
data four.tsv --metric prob --ablate L0H1 --at 3
rows four.tsv $edited --metric prob --ablate L0H1 --at 3
near "--data --metric prob --at 3" "$(ask "$edited .tables.metric.se[edited][0]")" "$(statistics < "$dir/values")"
data four.tsv --metric kl --ablate L0H1
rows four.tsv $edited --metric kl --ablate L0H1
near "--data --metric kl" "$(ask "$edited .tables.metric.se[edited][0]")" "$(statistics < "$dir/values")"

# Rows are lanes of a fork, as many as fit: many rows give what each of them gives alone. Each has
# noise of its own.
{
    head -n 1 "$dir/four.tsv"
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25; do sed 1d "$dir/four.tsv"; done
} > "$dir/hundred.tsv"
data four.tsv --ablate L1H0
ask "$edited $base" > "$dir/few"
data hundred.tsv --ablate L1H0
near "--data in several forks" "$(ask "$edited $base")" "$(cat "$dir/few")"
data hundred.tsv --ablate L1H0 --noise embed@1=1 --samples 3
each='.tables.metric.each'
ask "$each[0][edited][0] $each[62][edited][0] $each[63][edited][0] $each[64][edited][0] $each[99][edited][0]" > "$dir/few"
for row in 1 63 64 65 100; do
    data hundred.tsv --ablate L1H0 --noise embed@1=1 --samples 3 --rows $row
    ask "$each[0][edited][0]"
done | tr '\n' ' ' | sed 's/ $//' > "$dir/alone"
check "--data in several forks, with noise" "$(grep -q '[0-9]' "$dir/alone" || echo nothing; [ "$(cat "$dir/few")" = "$(cat "$dir/alone")" ] || cat "$dir/few" "$dir/alone")"
check "--noise over --data" "$(awk '$3 == $5 { print "rows 64 and 100, of one prompt, have one draw" }' "$dir/few")"

# Sweeps: without a source, the change of each cell.
change() {                          # FILE R C ARGUMENT...: of rows' cells, cell [R][C] minus held
    file=$1 r=$2 c=$3
    shift 3
    rows "$file" ".tables.cells.values[$r][$c]" "$@"
    cp "$dir/values" "$dir/cell"
    rows "$file" "$base $held" "$@"
    paste -d ' ' "$dir/cell" "$dir/values" | awk '{ printf "%s %.17g\n", $1, $2 - ($5 == "-" ? $4 : $5) }' |
        statistics
}
with_source=
data three.tsv --ablate 'L*H*' --each
for rc in "0 0" "0 2" "1 1" "2 2"; do
    r=${rc% *} c=${rc#* }
    near "--data --ablate heads --each, cell $rc" \
        "$(ask ".tables.change.values[$r][$c] .tables.change.se[$r][$c]")" \
        "$(change three.tsv $r $c --ablate 'L*H*' --each)"
done
data four.tsv --ablate 'L*.mlp_out@*' --each --scale L1H1=2
for rc in "0 0" "1 3" "2 5"; do
    r=${rc% *} c=${rc#* }
    near "--data, sweep with a held edit, cell $rc" \
        "$(ask ".tables.change.values[$r][$c] .tables.change.se[$r][$c]")" \
        "$(change four.tsv $r $c --ablate 'L*.mlp_out@*' --each --scale L1H1=2)"
done

# Patches: a = cell - held and b = source - held of each row give R = mean(a) / mean(b), and its
# error is that of the mean of a - R b, divided by mean(b).
with_source=yes
ratio() {                           # FILE R C ARGUMENT...
    change "$@" > /dev/null         # leaves "group cell" of each row in $dir/cell
    rows "$1" "$from $base $held" "$4" "$5" "$6" $7 $8
    paste -d ' ' "$dir/cell" "$dir/values" | awk '
        { held = $6 == "-" ? $5 : $6; group[NR] = $1; a[NR] = $2 - held; b[NR] = $4 - held
          sum_a += a[NR]; sum_b += b[NR] }
        END {
            for (i = 1; i <= NR; i++) inside[group[i]] += a[i] - sum_a / sum_b * b[i]
            for (g in inside) { squares += inside[g] ^ 2; n++ }
            error = sqrt(squares * n / (n - 1)) / sum_b
            printf "%.9g %.9g\n", sum_a / sum_b, error < 0 ? -error : error
        }'
}
data three.tsv --patch 'L*.resid_pre@*' --each
for rc in "0 0" "0 2" "1 4" "2 5"; do
    r=${rc% *} c=${rc#* }
    near "--data --patch --each, cell $rc" \
        "$(ask ".tables.change.values[$r][$c] .tables.change.se[$r][$c]")" \
        "$(ratio three.tsv $r $c --patch 'L*.resid_pre@*' --each)"
done
data three.tsv --patch 'L*H*' --each --ablate L1.mlp_out
for rc in "0 1" "2 0"; do
    r=${rc% *} c=${rc#* }
    near "--data --patch --each with a held edit, cell $rc" \
        "$(ask ".tables.change.values[$r][$c] .tables.change.se[$r][$c]")" \
        "$(ratio three.tsv $r $c --patch 'L*H*' --each --ablate L1.mlp_out)"
done

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
