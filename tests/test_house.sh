#!/bin/sh
# test_house.sh - what $MI (./mi) makes of real tables, files and terminals: quoting, byte order
# marks and pipes; what a cell of a table may say; statistics over prompts; names of files; and that
# a study can be cut into parts. Run it from the repository root. The model is tiny, beside $MI.

. tests/scratch.sh
root=$PWD
cd "$dir" || exit 1

run() { "$mi" "$@" > out 2> err < /dev/null; status=$?; }
json() {                            # PATHS ARGUMENT...: the values at these paths into $value
    want=$1
    shift
    run --json "$@"
    read_json
}
read_json() {
    if [ $status -ne 0 ]; then value="exit status $status: $(head -n 3 err)"
    else value=$(awk -v want="$want" -f "$root/tests/json.awk" out)
    fi
}
is() {                              # NAME EXPECTED: $value is this
    if [ "$value" = "$2" ]; then ok; else bad "$1" "expected $2, got $value"; fi
}
holds() {                           # NAME EXPRESSION: of awk, the words in $value are its fields
    case $value in
    exit* | malformed* | "") bad "$1" "${value:-nothing}" ;;
    *)
        if printf '%s\n' "$value" | awk "
            function near(a, b) { return (a - b) ^ 2 <= 1e-10 * (1 + a ^ 2 + b ^ 2) }
            function ok() { return $2 } { exit !ok() }"
        then ok; else bad "$1" "does not hold: $2, for $value"; fi
        ;;
    esac
}
# NAME STATUS SAYING ARGUMENT...: one line on stderr that says so (two more may show where),
# nothing on stdout
refuses() {
    name=$1 want=$2 saying=$3
    shift 3
    run "$@"
    IFS= read -r first < err
    case $first in
    "mi: "*"$saying"*)
        if [ $status -ne "$want" ]; then bad "$name" "exit status $status, not $want ($first)"
        elif [ -s out ]; then bad "$name" "prints to stdout: $(head -n 1 out)"
        else ok; fi ;;
    *) bad "$name" "exit status $status, does not say \"$saying\" but: $first" ;;
    esac
}
has() { if grep -qF -e "$2" out; then ok; else bad "$1" "does not print \"$2\""; fi; }
lacks() { if grep -qF -e "$2" out; then bad "$1" "prints \"$2\""; else ok; fi; }

P="When Mary and John went to the store, John gave a drink to"
S="When John and Mary went to the store, Mary gave a drink to"
ask="--answer  Mary --versus  John"
data=$root/tests/data
metric=.tables.metric.values
base=$metric[base][0] edited=$metric[edited][0] source=$metric[source][0]
tab=$(printf '\t')
asked() {                           # PATHS ARGUMENT...: about the built-in prompt's names
    asked=$1
    shift
    json "$asked" --answer ' Mary' --versus ' John' "$@"
}
table() { printf "$@" | sed "s/{P}/$P/; s/{S}/$S/" > t.tsv; }   # FORMAT WORD...: to t.tsv

asked "$base" "$P"; alone=$value
asked "$edited" "$P" --ablate L5H3; ablated=$value

# ---- One metric for all rows

for rest in "{P}${tab} Mary${tab}" "{P}${tab}${tab}"; do
    table 'prompt\tanswer\tversus\n{P}\t Mary\t John\n%s\n' "$rest"
    refuses "a row without versus" 2 "the metric is one for all rows" --data t.tsv
done
table 'prompt\tanswer\tversus\n{P}\t\t\n{P}\t Mary\t John\n'
refuses "a first row without answer" 2 "the metric is one for all rows" --data t.tsv
table 'prompt\tanswer\tversus\n{P}\t Mary\t\n{P}\t John\t\n'
json ".metric .data.n" --data t.tsv
is "an empty column versus" '"prob" 2'

# ---- What is not a number leaves base and edited alike

table 'prompt\tanswer\tversus\tS\n{P}\t Mary\t John\t1\n{S}\t John\t Mary\t13\n{P}\t Mary\t John\t2\n'
json "$base $edited $metric[change][0] .tables.accuracy.values[base][0] .data.n .data.dropped .data.groups" \
    --data t.tsv --scale L5.resid_mid@S=3e38
value="$value $alone"
holds "a row that is no number" '$1 == $8 && $2 == $1 && $3 == 0 && $5 == 2 && $6 == 1 && $7 == 2'
has "a row that is no number" '"each"'
run --data t.tsv --scale L5.resid_mid@S=3e38
has "a row that is no number" "1 of 3 rows gave a number that is not finite"
has "a row that is no number" "2 prompts"
json "$base $edited .data.n .data.dropped" --data t.tsv --scale L5.resid_mid@S=3e38 --metric kl
is "a KL that is no number" "0 0 2 1"

# ---- Means over sources of another length, where prompts have one

printf 'prompt\tsource\tanswer\n%s\t%s now\t Mary\n%s\t%s\t Mary\n' "$P" "$S" "$S" "$P" > t.tsv
refuses "means of longer sources" 2 "the source has 16 tokens, all prompts 14" --data t.tsv --ablate L1H1=mean \
    --mean-from source

# ---- Columns and positions

table 'prompt\tanswer\t0\t3\tthe\tall\tS\tS-3\tS1+1\tIO-1\ttwo words\n{P}\t Mary\t5\t9\t2\t1\t1\t9\t4\t5\t7\n'
at() {                              # FIRST LAST ADDRESS: of the table's row
    json ".edits[0].pos[0] .edits[0].pos[1]" --data t.tsv --ablate "$3"
    is "@${3#*@} of a table" "$1 $2"
}
at 0 0 L4.resid_pre@0
at 3 3 L4.resid_pre@3
at 13 13 L4.resid_pre@-1
at 0 13 'L4.resid_pre@*'
at 0 13 L4.resid_pre@all
at 5 5 'L4.resid_pre@{0}'
at 1 1 'L4.resid_pre@{all}'
at 2 2 'L4.resid_pre@{the}'
at 6 6 'L4.resid_pre@" the"'
at 1 1 L4.resid_pre@S
at 9 9 L4.resid_pre@S-3
at 4 4 L4.resid_pre@S1+1
at 5 5 L4.resid_pre@IO-1
at 7 7 'L4.resid_pre@two words'
at 9 9 L4.resid_pre@S-3=mean
at 9 9 L4.resid_pre@S-3,L3.resid_pre@S
json ".edits[0].pos[0] .edits[0].keys[0] .edits[1].pos[0]" --data t.tsv --knockout L4H1@S-3:IO-1,L3H1@S1+1:S
is "columns as query and key" "9 5 4"
refuses "a name that is a column and a text" 2 '@{the} is the column, @" the" the token' --data t.tsv \
    --ablate L4.resid_pre@the
refuses "a column that is not there" 2 "not a position" --data t.tsv --ablate L4.resid_pre@S-4

says() {                            # CELL FIRST [LAST]: what a cell of a column means
    table 'prompt\tanswer\tS\n{P}\t Mary\t%s\n' "$1"
    at "$2" "${3:-$2}" L4.resid_pre@S
}
says 3 3
says -1 13
says Mary 1
says ' Mary' 1
says '"Mary"' 1
says 'John#2' 9
for cell in all '*' 1-3 -3--1 '1,L5H3@2' '1=mean' 1:0 John zebra 14 -15 '""' '1#1'; do
    table 'prompt\tanswer\tS\n{P}\t Mary\t%s\n' "$cell"
    refuses "a cell that says $cell" 2 "column S" --data t.tsv --ablate L4.resid_pre@S
done
says_so() {                         # CELL WHY: what is said of a cell, with the file and the row
    table 'prompt\tanswer\tS\n{P}\t Mary\t3\n{P}\t Mary\t%s\n' "$1"
    refuses "a cell that says $1" 2 "t.tsv, row 2: --ablate: the column S $2" --data t.tsv --ablate L4.resid_pre@S
}
says_so 14 "says 14, but the prompt has 14 tokens"
says_so -15 "says -15, but the prompt has 14 tokens"
says_so -0 "says -0, but the prompt has 14 tokens"
says_so 123456789 "says 123456789, but the prompt has 14 tokens"
says_so zebra 'says "zebra": no index, and not in the prompt'
says_so Mary#2 'says "Mary#2": '
says_so "" "is empty in this row"
table 'prompt\tanswer\tS\n{P}\t Mary\t\n'
refuses "an empty cell" 2 "column S is empty" --data t.tsv --ablate L4.resid_pre@S
table 'prompt\tanswer\tS\n{P}\t Mary\t3\n'
json ".data.n" --data t.tsv --ablate L4H1 --save L5.resid_pre=S.npy; is "a column named like a file" 1

# ---- Tables as pandas and others write them

reads() { json "$base" --data "$1"; is "$2" "$alone"; }    # FILE NAME
quoted="He said \"When Mary and John went to the store, John gave a drink to"
json "$base" "$quoted" --answer ' Mary' --versus ' John'; kept=$value
table 'prompt\tanswer\tversus\n"%s"\t Mary\t John\n' "$(printf %s "$quoted" | sed 's/"/""/g')"
json "$base" --data t.tsv; is "a quoted cell" "$kept"
printf 'prompt\tanswer\tversus\n"%s\n"\t" Mary"\t John\n' "$P" > t.tsv
json "$base" --data t.tsv; kept=$value
printf '%s\n\n' "$P" > in
"$mi" - --answer ' Mary' --versus ' John' --json < in > out 2> err; status=$? want=$base; read_json
is "a line end in a quoted cell" "$kept"
printf 'prompt,answer,versus\n"%s", Mary, John\n' "$P" > t.csv; reads t.csv "a .csv"
printf '"prompt","answer","versus"\r\n"%s"," Mary"," John"\r\n' "$P" > t.csv; reads t.csv "a .csv with CRLF"
printf '\357\273\277prompt\tanswer\tversus\n%s\t Mary\t John\n' "$P" > t.tsv; reads t.tsv "a byte order mark"
printf 'prompt\tanswer\tversus\r\n%s\t Mary\t John\r\n' "$P" > t.tsv; reads t.tsv "CRLF"
printf 'prompt\tanswer\tversus\n%s\t Mary\t John' "$P" > t.tsv; reads t.tsv "no line end at the end"
printf 'prompt\tanswer\tversus\n%s\t Mary\t John\n\n' "$P" > t.tsv; reads t.tsv "an empty line at the end"
"$mi" --data - --json < t.tsv > out 2> err; status=$? want="$base .data.n"; read_json
is "--data -" "$alone 1"
mkfifo pipe && { cat t.tsv > pipe & }
json "$base" --data pipe; is "--data of a pipe" "$alone"
kill $! 2>/dev/null                 # a program that does not read it leaves it waiting
printf 'tokens\tanswer\tversus\n2215 5335 290 1757 1816 284 262 3650 11 1757 2921 257 4144 284\t Mary\t John\n' > t.tsv
reads t.tsv "a column tokens"
printf 'prompt\tanswer\tversus\n"%s\t Mary\t John\n' "$P" > t.tsv
refuses "a quote that does not end" 1 "t.tsv" --data t.tsv
printf 'prompt\tanswer\tversus\n%s\t Mary\n' "$P" > t.tsv
refuses "a row that is too short" 1 "t.tsv" --data t.tsv

piped() {                           # NAME FORMAT: standard input is the built-in prompt
    printf "$2" "$P" > in
    "$mi" - --answer ' Mary' --versus ' John' --json < in > out 2> err
    status=$? want="$base .prompt.at"
    read_json
    is "$1" "$alone 13"
}
piped "standard input" '%s'
piped "standard input with a line end" '%s\n'
piped "standard input with CRLF" '%s\r\n'
piped "standard input with a byte order mark" '\357\273\277%s'

# ---- Answers: one rule for a column

table 'prompt\tanswer\tversus\n{P}\tEmma\tMary\n{P}\tMary\tEmma\n'
json "$base .tables.metric.each[0][base][0] .tables.metric.each[1][base][0]" --data t.tsv; kept=$value
table 'prompt\tanswer\tversus\n{P}\t Emma\t Mary\n{P}\t Mary\t Emma\n'
json "$base .tables.metric.each[0][base][0] .tables.metric.each[1][base][0]" --data t.tsv
is "answers without a space" "$kept"
holds "answers without a space" '$1 == 0 && $2 == -$3'
table 'prompt\tanswer\tversus\n{P}\tEmma\tMary\n{P}\tMary\tEmma\n'
run --data t.tsv
has "answers without a space" "the column answer were taken with a space"

# ---- Modifiers belong to their own edit

asked "$edited" "$P" --project L4.resid_pre --toward ' John and Mary went'; kept=$value
asked "$edited" "$P" --project L4.resid_pre --toward ' John and Mary went' \
    --steer L3.resid_pre=0 --toward ' love it' --away ' hate' --align front
is "--align front of a --steer, after a --project" "$kept"
asked "$edited" "$P" --steer L3.resid_pre=0 --toward ' love it' --away ' hate' --align front \
    --project L4.resid_pre --toward ' John and Mary went'
is "--align front of a --steer, before a --project" "$kept"

# ---- What is swept decides what a table of changes says

asked ".tables.change.title .tables.change.values[L1][H1] .tables.cells.values[L1][H1] $metric[held][0]" \
    "$P" --source "$S" --patch L1H1@0 --ablate heads --each
title=${value%\" *} value=${value##*\" }
case $title in *"change of logit_diff from held") ok ;; *) bad "a sweep beside a held patch" "$title" ;; esac
holds "a sweep beside a held patch" 'near($1, $2 - $3) && $1 != 0'

# ---- A source that hardly differs

asked "$base" "$P" --source "${P% drink to} book to" --patch 'L*.resid_pre@*' --each
run "$P" --answer ' Mary' --versus ' John' --source "${P% drink to} book to" --patch 'L*.resid_pre@*' --each
has "a source close to base" "source and base differ by only"
run "$P" --answer ' Mary' --versus ' John' --source "$S" --patch 'L*.resid_pre@*' --each
lacks "a source far from base" "differ by only"
run "$P" --answer ' Mary' --versus ' John' --source "$P" --patch heads --each
has "a source that is the prompt" "nothing to restore"
lacks "a source that is the prompt" "infinite"

# ---- Statistics

many=$data/ioi.tsv
json ".data.n .data.groups" --data "$many"
is "the number of groups" "208 $(sed 1d "$many" | cut -f5 | sort -u | wc -l | tr -d ' ')"
run --data "$many" --rows 1-40
has "the number of groups" "16 groups"
table 'prompt\tanswer\tversus\tgroup\n{P}\t Mary\t John\t\n{S}\t John\t Mary\t\n{P}\t Mary\t John\t\n'
json ".data.groups" --data t.tsv; is "rows with an empty group" 3
table 'prompt\tanswer\tversus\tgroup\n{P}\t Mary\t John\tg\n{S}\t John\t Mary\tg\n'
json ".data.groups .tables.metric.se[base][0] .tables.metric.values[base][0]" --data t.tsv
holds "one group has no error" '$1 == 1 && ($2 == "-" || $2 == "null") && $3 > 1'
no_error() {                        # ARGUMENT...: t.tsv has one group, so nothing speaks of errors
    run --data t.tsv "$@"
    if [ $status -ne 0 ]; then bad "one group: $*" "exit status $status: $(head -n 1 err)"; fi
    for word in ± SE '~' "standard error" "cannot be told from 0"; do lacks "one group: $*" "$word"; done
}
no_error --ablate heads --each
no_error --ablate L5H3
no_error --ablate L1H0
no_error --patch L4H3 --source-tokens "2215 5335 290 1757 1816 284 262 3650 11 5335 2921 257 4144 284"
no_error --ablate L1H0 --metric prob
no_error --lens
no_error --loss
run --data t.tsv --ablate heads --each --tsv
value=$(awk -F'\t' 'NR > 1 && $6 != "" { n++ } END { print (NR > 24), n + 0 }' out); is "one group: --tsv" "1 0"
run --data t.tsv --ablate heads --each --svg p.svg
if grep -q -e 'standard error' -e ± p.svg; then bad "one group: --svg" "speaks of errors"; else ok; fi
run --data "$many" --rows 1-2 --ablate L1H0
has "an edit of two rows that changes little" "cannot be told from 0"
json "$base $edited $metric[change][0] .tables.metric.se[change][0]" --data "$many" --rows 1-2 --ablate L1H0
holds "a paired change" 'near($3, $2 - $1) && $4 > 0'
run --data "$many" --rows 1-2 --ablate heads --each
has "two groups have Student's t" "12.7"

# ---- A study in parts

whole="--data $many --ablate L5H3 --patch L4H3@S2 --tsv --per-prompt"
# shellcheck disable=SC2086
{
    run $whole --rows 1-30; mv out whole
    for part in 1-7 8-8 9-30; do run $whole --rows $part; cat out; done > parts
}
per_prompt() { awk -F'\t' '$2 != "" && $2 != "prompt"' "$1" | sort; }
per_prompt whole > a; per_prompt parts > b
value=$(wc -l < a)
holds "--per-prompt" '$1 >= 30 * 4'
if cmp -s a b; then ok; else bad "a study in three parts" "$(diff a b | sed -n '2p;/^>/{p;q;}' | tr '\n' ' ')"; fi
for row in base edited source change; do
    value=$(awk -F'\t' -v row=$row '$1 == "metric" && $2 != "" && $3 == row { s += $5; n++ } END { printf "%.9g\n", s / n }' parts)
    is "the mean of the parts: $row" "$(awk -F'\t' -v row=$row '$1 == "metric" && $2 == "" && $3 == row { print $5 }' whole)"
done
run --data "$many" --rows 1-30 --ablate heads --each --tsv --per-prompt; mv out whole
for part in 1-7 8-8 9-30; do run --data "$many" --rows $part --ablate heads --each --tsv --per-prompt; cat out; done |
    awk -F'\t' '$2 + 0 { s[$1 FS $3 FS $4] += $5; n[$1 FS $3 FS $4]++ }
        END { for (cell in s) if (cell !~ /^accuracy/) printf "%s\t%.9g\n", cell, s[cell] / n[cell] }' | sort > a
awk -F'\t' -v OFS='\t' '$2 == "" && $1 != "accuracy" { print $1, $3, $4, $5 }' whole | sort > b
value=$(wc -l < a); holds "the cells of a study in parts" '$1 >= 49'
value=$(diff a b | sed -n 2,3p)
is "the means of cells in parts, to the last digit" ""
value=$(awk -F'\t' '$2 + 0 && $1 == "cells" { cell[$2, $8] = $5 } $2 + 0 && $1 == "metric" { base[$2] = $5 }
    $2 + 0 && $1 == "change" { change[$2, $8] = $5 }
    END { for (i in change) { split(i, of, SUBSEP); n++; off += change[i] + 0 != cell[i] - base[of[1]] }
          print n, off }' whole)
is "the lines of single prompts have all digits" "720 0"
run --data "$many" --rows 11-12 --tsv
value=$(awk -F'\t' '$1 == "metric" && $2 != "" { print $2 }' out | sort -u | tr '\n' ' ')
is "the numbers of rows" "11 12 "
for rows in 0-1 1-209 209 2-1 x 1- -3 1-2-3 "" 1.5; do
    refuses "--rows $rows" 2 "--rows" --data "$many" --rows "$rows"
done
refuses "--rows without --data" 2 "--rows is for --data" "$P" --rows 1-2
refuses "--per-prompt without --tsv" 2 "--per-prompt" --data "$many" --per-prompt
json ".tables.metric.each[0][edited][0]" --data "$many" --ablate L4H3@-1=mean; kept=$value
json "$edited" --data "$many" --ablate L4H3@-1=mean --rows 1; value="$value $kept"
holds "means are of all rows" 'near($1, $2)'

# ---- Edits in JSON: a study has no positions, since every row has its own

json ".edits[0].site .edits[0].columns[0] .edits[0].pos[0]" --data "$many" --rows 1-3 --ablate L5H3@S2
is "edits over --data" '"L5.z" 96 -'
json ".edits[0].pos[0] .edits[0].pos[1]" "$P" --ablate L5H3@9
is "edits of one prompt" "9 9"

# ---- A bar of a probability is full at 1

bar() {                             # ROW: how many full characters its bar has
    value=$(sed -n "/^  probability/,/^\$/s/^     $1  *[^ ]* ± [^ ]* *//p" out | head -n 1 | grep -o █ | wc -l)
}
run --data "$many" --rows 1-20 --ablate L5H3 --metric prob
bar base; full=$value
bar edited
value="$full $value"
holds "bars of probabilities" '$1 >= 27 && $1 <= 40 && $2 == 0'
run --data "$many" --rows 1-20 --metric prob --answer ' the'
bar base
holds "a bar of a probability near 0" '$1 == 0'

# ---- --save over --data

shape() {                           # FILE SHAPE: of an .npy file
    [ -f "$1" ] || { bad "--save to $1" "writes nothing"; return; }
    IFS= read -r header < "$1"
    case $header in
    *"'shape': ($2), }"*) ok ;;
    *) bad "the shape of $1" "expected ($2), the header is $(printf %s "$header" | tr -dc '\040-\176')" ;;
    esac
    size=$(($(printf %s "$2" | sed 's/, / * /g') * 4 + 128))
    [ "$(($(wc -c < "$1")))" -eq $size ] || bad "the size of $1" "not $size"
}
run --data "$many" --rows 1-4 --save L5.resid_pre@-1=last.npy --save L5H3@S2=head.npy --save 'L*.resid_post@IO=all.npy'
if [ $status -eq 0 ]; then ok; else bad "--save over --data" "exit status $status: $(head -n 1 err)"; fi
has "--save over --data" "last.npy: float32 (4, 1, 128)"
shape last.npy "4, 1, 128"
shape head.npy "4, 1, 32"
shape all.npy "4, 6, 1, 128"
numbers() { od -An -v -tf4 -j $((128 + $2)) -N $((128 * 4)) "$1"; }     # FILE BYTE
sed -n 4p "$many" | cut -f1 > third
run "$(cat third)" --save L5.resid_pre@-1=third.npy
if [ "$(numbers last.npy 1024)" = "$(numbers third.npy 0)" ]; then ok; else bad "row 3 of --save" "is not its prompt's"; fi
refuses "--save of rows of several lengths" 1 "row 3: --save" --data "$many" --rows 1-4 --save logits=logits.npy

# ---- Names of files

mkdir 'lr=0.1'
run "$P" --save 'L5H3=lr=0.1/z.npy'
if [ -s lr=0.1/z.npy ]; then ok; else bad "a file name with =" "$(head -n 1 err)"; fi
echo mine > x.npy.part; echo mine > x.svg.part
run "$P" --save L5H3=x.npy --lens --svg x.svg
value=$(cat x.npy.part x.svg.part | tr '\n' ' '); is "files named .part" "mine mine "
: > real.npy; ln -s real.npy link.npy
run "$P" --save L5H3=link.npy
if [ -L link.npy ] && [ -s real.npy ]; then ok; else bad "--save to a link" "replaces the link"; fi
cp x.npy x@prompt.npy
table 'prompt\tanswer\tversus\n{P}\t Mary\t John\n'
json "$edited" --data t.tsv --set L5H3=x@prompt.npy; is "a file named like a column" "$alone"
(ulimit -f 1; "$mi" "$P" --save logits=big.npy) > out 2> err < /dev/null
value=$(ls big.npy* .big* 2>/dev/null); is "a file that is too large" ""
for flag in -m --model --tokenizer --svg --data; do
    case $flag in --data) set -- ;; *) set -- "$P" --lens ;; esac
    refuses "$flag of an empty name" 2 "empty" "$@" "$flag" ""
done
MI_MODEL= json "$base" --answer ' Mary' --versus ' John' "$P"; is "an empty MI_MODEL" "$alone"

mkdir folder && cp "$root/tests/golden/odd7.safetensors" folder/model.safetensors
json ".model.n_layer" -m folder ABC; is "-m of a folder" 3
mkdir shards && echo '{"weight_map":{}}' > shards/model.safetensors.index.json
lacks_words() { if grep -q "bytes" err; then bad "$1" "speaks of bytes: $(cat err)"; else ok; fi; }
refuses "a folder of several parts" 1 "index.json" -m shards ABC; lacks_words "a folder of several parts"
refuses "an index" 1 "index" -m shards/model.safetensors.index.json ABC; lacks_words "an index"
printf 'version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n' > lfs.safetensors
refuses "a Git LFS pointer" 1 "LFS" -m lfs.safetensors ABC; lacks_words "a Git LFS pointer"
printf 'PK\003\004................................' > pytorch_model.bin
refuses "a pytorch_model.bin" 1 "PyTorch" -m pytorch_model.bin ABC; lacks_words "a pytorch_model.bin"

# .npy files: the header is parsed
npy() {                             # FILE VERSION HEADER: 128 ones
    { printf '\223NUMPY'
      if [ "$2" -eq 1 ]; then printf '\001\000\166\000%-117s\n' "$3"; else printf '\002\000\164\000\000\000%-115s\n' "$3"; fi
      awk 'BEGIN { for (i = 0; i < 128; i++) printf "\\000\\000\\200\\077" }' > ones
      printf "$(cat ones)"; } > "$1"
}
steer() { asked "$edited" "$P" --steer L3.resid_pre@-1=1 --direction "$1"; }
npy one.npy 1 "{'descr': '<f4', 'fortran_order': False, 'shape': (128,), }"
steer one.npy; kept=$value
holds "an array of ones" '$1 + 0 != 0'
npy other.npy 2 "{'descr': '<f4', 'fortran_order': False, 'shape': (128,), }"
steer other.npy; is "version 2" "$kept"
npy other.npy 1 "{'shape': (128,), 'fortran_order': False, 'descr': '<f4'}"
steer other.npy; is "keys in another order" "$kept"
npy other.npy 1 "{'descr': '<f4', 'fortran_order': False, 'shape': (2L, 64L), }"
steer other.npy; is "a shape with L" "$kept"
for header in "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (128,), }" \
    "{'descr': '<f4', 'fortran_order': True, 'shape': (2, 64), }" \
    "{'descr': '<f2', 'fortran_order': False, 'shape': (256,), }" \
    "{'descr': '>f4', 'fortran_order': False, 'shape': (128,), }" \
    "{'descr': '<i4', 'fortran_order': False, 'shape': (128,), }" \
    "{'descr': '<f4', 'fortran_order': False, 'shape': (129,), }" \
    "{'descr': '<f4', 'fortran_order': False, 'shape': (-128,), }" \
    "{'descr': '<f4', 'fortran_order': False, 'shape': (128,) " "{}" ""; do
    npy other.npy 1 "$header"
    refuses "an array with the header $header" 1 "other.npy" "$P" --steer L3.resid_pre@-1=1 --direction other.npy
done

# ---- What people type by mistake

refuses "an address after a space" 2 "looks like an address" --ablate L5H3 L4H3
for word in help version sites explain; do refuses "mi $word" 2 "did you mean --$word?" $word; done
run -- help; value=$status; is "mi -- help" 0
refuses "an answer against itself" 2 "is the answer itself" "$P" --answer X --versus X
refuses "answers against themselves" 2 "is the answer itself" "$P" --answer ' Mary| John' --versus ' John| Mary'
refuses "a misspelt site" 2 "did you mean resid_pre?" --ablate L5.resid_pr
refuses "letters in another order" 2 "did you mean --heads?" --hedas
refuses "a head's result" 2 "its z times W_O" --ablate blocks.5.attn.hook_result
refuses "a head's result" 2 "its z times W_O" --ablate L5.hook_result
refuses "small letters" 2 "capital letters: L5H3" --ablate l5h3
for dash in "-" "$(printf '\342\200\224')" "$(printf '\342\200\223')" "$(printf '\342\200\222')" "$(printf '\342\210\222')" "$(printf '\342\210\222-')"; do
    refuses "${dash}ablate" 2 "did you mean --ablate?" "${dash}ablate" L5H3
done
refuses "--each before its edit" 2 "there is no intervention before it" --each --ablate heads
run --trace zebra
if grep -q -e --noise err; then bad "--trace zebra" "speaks of --noise"; else ok; fi
refuses "--trace of a text that is not there" 2 "--trace" --trace zebra
refuses "a second <|endoftext|>" 2 "already" '<|endoftext|>Once' --bos
run "$P" --at 3 --ablate L2H1@9 -k 2
has "an edit after the position that is read" "changes nothing"
table 'prompt\tanswer\n{P} \t Mary\n{P} \t Mary\n'
run --data t.tsv
has "prompts that end with a space" "2 of the prompts end with a space"
run "$P" --answer ' Mary' --patch L5H3 --source "$S"
has "a report of a patch" "$S"
run "$P" -k5; value=$(grep -c '^ *[0-9]* .*%' out); is "-k5" 5
run "$P" -n2; has "-n2" "$P Mary."

# The caret stands under its character: wide ones take two columns, combining ones none.
under() {                           # TEXT COLUMN: of the 9 in L5H3@"TEXT",L5H9
    refuses "a caret after $1" 2 "head 9 does not exist" "$1 Mary" --ablate "L5H3@\"$1\",L5H9"
    value=$(sed -n 's/^\( *\)^.*/\1/p' err | awk '{ print length($0) }')
    is "the column of a caret after $1" "$2"
}
under ab 17
under "$(printf '\346\227\245\346\234\254')" 19
under "$(printf 'e\314\201')" 16
under "$(printf '\360\237\230\200')" 17

# ---- Interrupted: a file is there whole, or not at all

if timeout -k 5 1 true 2>/dev/null; then
    mkdir stopped
    sed -n '1p;/0-ABBA/p' "$many" > long.tsv
    for seconds in 0.02 0.05 0.1 0.15 0.2 0.3 0.5; do
        timeout -s INT $seconds "$mi" --data long.tsv --save logits=stopped/logits.npy --save 'L*.resid_post=stopped/resid.npy' \
            > out 2> err < /dev/null
        case $? in
        0) rm -f stopped/*; ok ;;
        *)
            value=$(cd stopped && find . -type f ! \( -name logits.npy -size 1469960c -o -name resid.npy -size 559232c \))
            is "stopped after $seconds seconds" "" ;;
        esac
    done
fi

# ---- Pictures: XML with every kind of table, and --title

xml='import sys, xml.dom.minidom
xml.dom.minidom.parse(sys.argv[1])'
if command -v python3 > /dev/null 2>&1; then parses() { python3 -c "$xml" "$1"; }
elif command -v xmllint > /dev/null 2>&1; then parses() { xmllint --noout "$1"; }
else parses() { tail -n 1 "$1" | grep -q '</svg>$'; }
fi
draws() {                           # ARGUMENT...
    rm -f p.svg
    run "$@" --svg p.svg
    if [ $status -ne 0 ]; then bad "mi $* --svg" "$(head -n 1 err)"
    elif ! parses p.svg > facts 2>&1; then bad "mi $* --svg" "$(tail -n 1 facts)"
    elif grep -q '="-\{0,1\}\(nan\|inf\)' p.svg || grep -q -e '-nan' p.svg out; then bad "mi $* --svg" "draws what is no number"
    else ok; fi
}
odd=$(printf 'a\357\277\276b\177\001 \342\200\256x \360\237\230\200 \303')
draws --ablate heads --each
draws --ablate 'L*.resid_pre@*' --each
draws --ablate L1H1,L2H2@3,mlps --each
draws --patch 'L*.resid_pre@*' --source "$S" --each
draws --knockout 'L5H3@*:*' --each
draws --scale 'L*.resid_pre@4-5=3e38' --each
draws --lens --answer ' Mary'
draws --lens=final --ablate L5H3
draws "$odd" --lens
draws "$odd" --attn L5H3 --title "$odd"
draws --attn 'L*H*'
draws --attn L4H1.scores,L5H3
draws --loss --ablate L5H3
draws --scale L0.resid_pre=3e38 --loss
draws --heads 10
draws --trace Mary
draws --data "$many" --rows 1-8 --ablate heads --each
draws --data "$many" --rows 1-8 --lens
draws --data "$many" --rows 1-8 --loss
draws --ablate heads --each --title 'Tom & "Jerry" <3'
if grep -q 'Tom &[a-z#0-9]*; .*Jerry.*; &[a-z#0-9]*;3<' p.svg; then ok; else bad "--title" "is not in the picture"; fi
draws --ablate 'L3N*' --each
value=$(sed -n 's/.*<svg[^>]* height="\([0-9.]*\)".*/\1/p' p.svg)
holds "the height of a picture of 512 neurons" '$1 < 3000'
value=$(grep -c '>L3N[0-9]*<' p.svg); holds "a picture of 512 neurons" '$1 >= 20 && $1 <= 60'
for neuron in L3N390 L3N133 L3N58; do
    if grep -q ">$neuron<" p.svg; then ok; else bad "a picture of 512 neurons" "does not show $neuron"; fi
done
for form in --tsv --json --color=never; do
    run --scale 'L*.resid_pre@4-5=3e38' --each $form
    if grep -q -e '-nan' out; then bad "not a number, $form" "is negative"; else ok; fi
done
draws "$P. $P. $P. $P" --ablate 'L*.resid_pre@*' --each
value=$(sed -n 's/.*<svg[^>]* width="\([0-9.]*\)".*/\1/p' p.svg)
holds "the width of a picture of 59 positions" '$1 < 1200'

# ---- --heads: the same numbers as --attn's on the same tokens

# mix() is the hash that the random tokens are made of; shells count modulo 2^64.
n_vocab=53
mix() {
    x=$(($1 + 0x1E3779B97F4A7C15 + 0x4000000000000000 + 0x4000000000000000))
    x=$(((x ^ (x >> 30 & 0x3FFFFFFFF)) * (0x3F58476D1CE4E5B9 + 0x4000000000000000 + 0x4000000000000000)))
    x=$(((x ^ (x >> 27 & 0x1FFFFFFFFF)) * (0x14D049BB133111EB + 0x4000000000000000 + 0x4000000000000000)))
    x=$((x ^ (x >> 31 & 0x1FFFFFFFF)))
}
mix 0; key=$x ids=
i=0
while [ $i -lt 12 ]; do
    mix $((key ^ i << 8))
    high=$((x >> 1 & 0x7FFFFFFFFFFFFFFF))               # x as if it had no sign, modulo 53
    ids="$ids $(((high % n_vocab * 2 + (x & 1)) % n_vocab))"
    i=$((i + 1))
done
MI_MODEL=$root/tests/golden/odd7.safetensors
export MI_MODEL
run --tokens "$ids $ids" --attn 'L*H*' --tsv; mv out attn
run --heads 12 --tsv
value=$(awk -F'\t' -v n=12 '
    FILENAME == "attn" && /^pattern/ {
        split($8, a, "[.@:]")
        if (a[3] - a[4] == n - 1) sum["induction", a[1]] += $5
        if (a[3] - a[4] == 1) sum["previous", a[1]] += $5
        if (a[3] - a[4] == n) sum["duplicate", a[1]] += $5
    }
    FILENAME == "out" && /^(induction|previous|duplicate)/ {
        of["induction"] = n + 1; of["previous"] = 2 * n - 1; of["duplicate"] = n
        off = $5 - sum[$1, $8] / of[$1]
        if (off > 1e-7 || off < -1e-7) why = $0 " is not " sum[$1, $8] / of[$1]
        cells++
    }
    END { print cells why }' attn out)
is "--heads and --attn" 27
run --heads 4 --json; want=".prompt.tokens[0].id .prompt.tokens[7].id .prompt.tokens[4].id"; read_json
holds "the prompt of --heads" '$1 < 53 && $1 == $3 && $2 < 53'
MI_MODEL=$root/tests/golden/half12.safetensors     # a model without words
run --heads 4 --json; want=".prompt.tokens[0].id .prompt.tokens[4].id .prompt.tokens[7].id"; read_json
holds "--heads without words" '$1 == $2 && $3 >= 0'
unset MI_MODEL
refuses "--heads that do not fit" 2 "context" --heads 65
refuses "--heads over --data" 2 "--heads" --data "$many" --heads

# ---- One-liners

run --ablate heads --each --tsv
value=$(awk -F'\t' '$1 == "change" { print $5, $8 }' out | sort -n | head -n 1 | cut -d' ' -f2)
is "the head that does most" L5H3
if command -v xargs > /dev/null 2>&1; then
    best() { awk -F'\t' '$1 == "change" && $2'"$1"' { sum[$8] += $5; n[$8]++ }
                 END { for (a in sum) printf "%.9g %s\n", sum[a] / n[a], a }' | sort -n | head -n 3; }
    seq 1 8 32 | xargs -P 2 -I {} sh -c '"$0" --threads 1 --data "$1" --rows {}-$(({} + 7)) \
        --ablate heads=mean --each --tsv --per-prompt > part.{}' "$mi" "$many"
    run --data "$many" --rows 1-32 --ablate heads=mean --each --tsv
    value=$(cat part.1 part.9 part.17 part.25 | best ' != ""'); is "a study by xargs" "$(best ' == ""' < out)"
fi
if command -v jq > /dev/null 2>&1; then
    run --ablate L5H3 --json
    value=$(jq -r '.tables.metric | .values[1][0]' out); is "jq" "$ablated"
fi

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
