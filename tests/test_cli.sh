#!/bin/sh
# test_cli.sh - the command line of $MI (./mi): what it refuses and how it says so, and that every
# flag and every form of address means what the help says. Run it from the repository root.
#
# The model is tests/golden/odd7.safetensors (3 layers, 3 heads of 7, 84 neurons, 24 positions, 53
# tokens: the ids 0-52 are the characters ! to U), so nothing depends on what tiny has learned.
# Only words need tiny; those tests stand at the end.

. tests/scratch.sh
golden=$PWD/tests/golden
work=$dir/work                      # the only place where the program may write
mkdir "$work"

"$mi" --help > "$dir/help" 2>/dev/null
has() { grep -q -e "--$1 " -e "--$1\$" "$dir/help"; }    # NAME: does this program have --NAME?

run() { "$mi" "$@" > "$dir/out" 2> "$dir/err" < /dev/null; status=$?; }

odd() { MI_MODEL=$golden/odd7.safetensors; export MI_MODEL; }
odd

# ---- Command lines that must be refused

title() { name=$(printf '%s' "mi $*" | tr -c '\040-\176' '?' | cut -c1-100); }

# What every refusal has in common: the exit status, nothing on stdout, `mi: ` and why in one line,
# then nothing or two or three indented lines that show the argument; no files, nothing that moves a
# cursor. The lines go to $first, $second, $third.
decent() {                          # STATUS
    first= second= third= rest=
    { IFS= read -r first; IFS= read -r second; IFS= read -r third; IFS= read -r rest; } < "$dir/err"
    why=
    case $first in
    "mi: "?*) ;;
    *) why="stderr starts with \"$first\"" ;;
    esac
    [ "$status" -eq "$1" ] || why="exit status $status, not $1 ($first)"
    [ "$status" -lt 126 ] || why="exit status $status: a crash? ($first)"
    [ ! -s "$dir/out" ] || why="prints to stdout: $(head -n 1 "$dir/out")"
    case $second$third$rest in
    "" | "    "*) ;;
    *) why="more than one line on stderr: $first / $second" ;;
    esac
    [ -z "$rest" ] || why="a fourth line on stderr: $rest"
    for file in "$work"/* "$work"/.[!.]*; do
        [ ! -e "$file" ] || { why="leaves a file behind: $file"; rm -rf "$file"; }
    done
    [ -z "$why" ]
}

refuses() {                         # STATUS SAYING ARGUMENT...
    want=$1 saying=$2
    shift 2
    run "$@"
    decent "$want"
    case $why$first$second$third in
    *"$saying"*) ;;
    *) why="does not say \"$saying\" but: $first" ;;
    esac
    if [ -z "$why" ]; then ok; else title "$@"; bad "$name" "$why"; fi
}

caret() {                           # COLUMN SAYING ARGUMENT...: the caret stands under this column
    column=$1
    shift
    refuses 2 "$@"
    [ -z "$why" ] || return
    want=$(printf "%$((column + 4))s^" "")
    if [ "$third" = "$want" ]; then ok; return; fi
    shift
    title "$@"
    bad "caret of $name" "expected it in column $column, got \"$third\" under \"$second\""
}

address() { caret "$1" "$2" ABCABD --ablate "$3"; }     # COLUMN SAYING ADDRESS

# layers, heads, neurons
address 1 "layer 3 does not exist" L3H0
address 1 "layers 0-2" L99999999999999999999H0
address 1 "expected a layer" L
address 1 "expected a layer" LH0
address 1 "expected a layer" L-1H0
address 1 "backwards" L2-1H0
address 3 "layer" L0-H0
address 3 "layer 3" L0-3H0
address 2 "after the layer" L0
address 2 "after the layer" "L*"
address 3 "head 3 does not exist" L0H3
address 3 "heads 0-2" L0H99999999999999999999
address 3 "expected a head" L0H
address 3 "expected a head" L0H-1
address 3 "backwards" L0H2-1
address 5 "head 9" L0H0-9
address 5 "head" L0H1-
address 3 "neuron 84" L0N84
address 3 "backwards" L0N9-8
address 3 "expected a neuron" L0N
address 6 "neuron 84" L1N83-84
# sites
address 0 "address" foo
address 0 "address" ""
address 0 "address" " L0H0"
address 0 "address" l0h0
address 0 "address" resid_pre
address 0 "address" @3
address 3 "site" L0.foo
address 3 "site" L0.
address 3 "site" L0.embed
address 3 "site" L0.ln_f
address 3 "site" L0.resid_preX
address 5 "a head has" L0H0.
address 5 "a head has" L0H0.foo
address 5 "a head has" L0H0.mlp_out
address 5 "a head has" L0H0.ln1_scale
address 5 "a neuron has" L0N0.z
address 4 "" L0H0x
address 4 "" "L0H0 "
address 4 "" L0H0H1
address 5 "" embed.z
address 0 "" heads2
address 7 "layer 3" blocks.3.attn.hook_z
address 7 "layer" blocks.99999999999999999999.hook_mlp_out
address 0 "" blocks.0.attn.hook_foo
address 0 "" blocks.0.attn.hook_z_
address 0 "" blocks.x.hook_mlp_out
address 0 "" blocks.-1.hook_mlp_out
address 0 "" hook_embeds
# lists
address 0 "" ,L0H0
address 5 "" L0H0,
address 5 "" L0H0,,L0H1
address 6 "layer 7" L0H0,L7H0
address 10 "head 5" L0H0@1,L0H5
# positions
address 5 "position" L0H0@
address 5 "6 tokens" L0H0@6
address 5 "6 tokens" L0H0@-7
address 5 "6 tokens" L0H0@99999999999999999999
address 5 "backwards" L0H0@4-2
address 5 "backwards" L0H0@-1--2
address 7 "6 tokens" L0H0@2-6
address 7 "position" L0H0@1-
address 6 "" L0H0@3x
address 6 "" L0H0@3@4
address 6 "" "L0H0@*2"
address 5 "not closed" 'L0H0@"'
address 5 "not closed" 'L0H0@"AB'
address 5 "not closed" 'L0H0@"A=mean'
address 5 "" 'L0H0@""'
address 6 "" 'L0H0@"AD"'
address 6 "" 'L0H0@"ABCABDA"'
address 5 "" L0H0@AD
address 5 "" L0H0@S2
address 5 "#1 at 0 #2 at 3" L0H0@A
address 6 "#1 at 0 #2 at 3" 'L0H0@"AB"'
address 7 "" 'L0H0@A#'
address 7 "" 'L0H0@A#x'
address 7 "" 'L0H0@A#0'
address 7 "only 2 times" 'L0H0@A#3'
address 7 "only 2 times" 'L0H0@A#99'
address 7 "only" 'L0H0@C#2'
address 6 "" 'L0H0@"é"'
# edges
address 7 "only scores and pattern have keys" L0H0@1:0
address 15 "only scores and pattern have keys" L0.resid_pre@1:0
address 15 "after query" L0H0.pattern@1:2
address 15 "6 tokens" L0H0.pattern@1:9
address 15 "position" L0H0.pattern@1:
address 13 "position" L0H0.pattern@:1
address 16 "" L0H0.pattern@0:0:0
address 15 "backwards" L0H0.pattern@5:4-3
address 15 "" L0.pattern@0-2:3
# not:
address 4 "" not:
address 0 "nothing is left" not:heads
address 0 "nothing is left" not:embed
address 9 "one kind" not:L0H0,L0.mlp_out
address 9 "one kind" not:L0H0,L0H1.q
address 11 "same positions" not:L0H0@1,L0H1@2
address 4 "" not:L0.pattern@1:0
address 4 "" not:not:L0H0
address 5 "" L0H0,not:L0H1
# values
for value in foo "" ZERO zero2 "zero " 0; do address 5 "=zero" "L0H0=$value"; done
address 4 "" L0H0=mean=zero
address 12 "" L0H0.scores=mean
address 11 "" L0.pattern=tlzero
numbers="1e999 nan inf -inf 3x 0x10 1,5 --1 1e39"
for op in scale patch steer noise; do       # what is not a number
    for value in "" " 3" "3 " $numbers; do
        if [ $op = patch ]; then caret 5 "number" ABC --$op "L0H0=$value" --source ABC
        else caret 5 "expected a" ABC --$op "L0H0=$value"
        fi
    done
done
caret 4 "factor" ABC --scale L0H0
caret 4 "factor" ABC --steer L0H0 --toward ABC
caret 5 "" ABC --noise embed
caret 6 "" ABC --noise embed=s
caret 6 "" ABC --noise embed=3ss
caret 6 "" ABC --noise embed=s3
caret 4 "takes no value" ABC --freeze L0H0=1
caret 4 "takes no value" ABC --project L0H0=1 --toward ABC
caret 8 "takes no value" ABC --knockout L0H0@1:0=1
caret 0 "L5H3@QUERY:KEY" ABC --knockout L0H0
caret 0 "L5H3@QUERY:KEY" ABC --knockout L0H0@1
caret 0 "L5H3@QUERY:KEY" ABC --knockout L0N0@1:0
caret 9 "" ABC --knockout L0H0@1:0,L0.attn_out@1:0
caret 4 "" ABC --knockout L0H0.v@1:0
caret 7 "after query" ABC --knockout L0H0@1:2
caret 4 ".npy" ABC --set L0H0
caret 5 ".npy" ABC --set L0H0=
caret 4 ".npy" ABC --save L0H0
caret 5 ".npy" ABC --save L0H0=
caret 0 "one address" ABC --save "L0H0,L0H1=$work/x.npy"
caret 0 "one address" ABC --save "not:L0H1=$work/x.npy"
caret 0 "one address" ABC --set "L0H0,L0H1=$golden/x.npy"
caret 0 "" ABC --save "L0.pattern@1:0=$work/x.npy"
caret 0 "" ABC --save "logit=$work/x.npy"
caret 0 "" ABC --save "logits@1=$work/x.npy"
caret 0 "" ABC --steer L0.pattern=1 --toward ABC
caret 0 "" ABC --attn L0.resid_pre
caret 0 "" ABC --attn L0H0.v
caret 0 "" ABC --attn embed
caret 0 "" ABC --attn ""
caret 7 "" ABC --attn L0H0@1:0
caret 15 "leave out the :" ABC --attn L0H0.pattern@1:0
for at in 3 -4 99999999999999999999 x "" " 1"; do caret 0 "" ABC --at "$at"; done
caret 0 "one position" ABC --at 0-1
caret 0 "one position" ABC --at "*"
caret 0 "2 times" ABA --at A
caret 1 "" ABC --at 1x
caret 1 "" ABC --at 1e0
# a long argument is shown around the culprit
long=L0H0
while [ ${#long} -lt 50000 ]; do long=$long,$long; done
caret 53 "expected" ABC --ablate "$long,X"
case $second in *"L0H0,X") ok ;; *) bad "a long address" "shows \"$second\"" ;; esac
# tokens
caret 0 "53" --tokens 53
caret 0 "99999999999999999999" --tokens 99999999999999999999
caret 2 "" --tokens "1 -1"
caret 2 "" --tokens "1 x"
caret 3 "" --tokens "1 2.5"
caret 1 "" --tokens 0x10
caret 0 "" --tokens "é 1"
refuses 2 "empty" --tokens ""
refuses 2 "empty" --tokens " "
refuses 2 "empty" ""
refuses 2 "empty" -

# numbers of flags
for flag in threads samples seed top generate; do
    for value in "" " 3" "3 " 3x 0x10 1.5 1e1 -1 nan inf +1 99999999999999999999; do
        refuses 2 "--$flag" ABC --$flag "$value"
    done
done
refuses 2 "--threads" ABC --threads 0
refuses 2 "--samples" ABC --samples 0
refuses 2 "--samples is for --noise" ABC --samples 3
refuses 2 "--generate" ABC -n 0
for value in "" " 1" "1 " 1x 0x1 -1 nan inf 1e999 -0.001; do
    refuses 2 "--temp" ABC -n 2 --temp "$value"
    refuses 2 "--top-p" ABC -n 2 --top-p "$value"
done
refuses 2 "--top-p" ABC -n 2 --top-p 1.001

# missing and superfluous values, unknown options
for flag in model tokenizer tokens source source-tokens answer versus at threads ablate patch freeze \
    scale knockout noise steer project set toward away direction align samples seed top metric attn \
    generate temp top-p save svg color; do
    case $flag in
    toward | away | direction) refuses 2 "--$flag needs a value" ABC --steer L0H0=1 --$flag ;;
    *) refuses 2 "--$flag needs a value" ABC --$flag ;;
    esac
done
for flag in -m -k -n; do refuses 2 "needs a value" ABC $flag; done
for flag in bos loss json tsv explain sites help version per-prompt; do
    refuses 2 "--$flag takes no value" ABC --$flag=1
    refuses 2 "--$flag takes no value" ABC --$flag=
done
for word in --foo -x -- --=1 --Json --js --json2 ---json -5 -kx -mx -m5 --no-color; do
    case $word in
    --) refuses 2 "already" -- ABC ABC ;;
    *) refuses 2 "no such option" ABC $word ;;
    esac
done
for value in "" foo "logit " LOGIT "|" "logprob|logit" logit_diff2; do
    refuses 2 "--metric" ABC --answer A --metric "$value"
done
for value in "" x Auto "always|never"; do refuses 2 "--color" ABC --color "$value"; done
for value in "" x last; do refuses 2 "--lens" ABC "--lens=$value"; done
refuses 2 "did you mean --ablate?" ABC --abalte L1H1
refuses 2 "did you mean --source?" ABC --sorce ABD
refuses 2 "mi --help lists them" ABC --gradient
printf 'prompt\tanswr\nABC\tD\n' > "$dir/answr.tsv"
refuses 1 "no column answer" --data "$dir/answr.tsv"
refuses 2 "--align" ABC --steer L0.resid_pre=1 --toward A --align middle

# contradictions
refuses 2 "already" ABC DEF
refuses 2 "already" ABC --tokens "1 2"
refuses 2 "already" ABC --patch L0H0 --source DEF --source-tokens "1 2 3"
refuses 2 "--tsv" ABC --json --tsv
for flag in model tokenizer tokens source answer at svg attn; do
    refuses 2 "--$flag is given twice" ABC --$flag A --$flag A
done
refuses 2 "--source" ABC --patch L0H0
refuses 2 "--source" ABC --source DEF
refuses 2 "--versus needs --answer" ABC --versus A
refuses 2 "--metric" ABC --metric logit_diff
refuses 2 "--metric" ABC --metric logit_diff --answer A
for metric in prob logprob logit rank; do refuses 2 "--metric" ABC --metric $metric; done
refuses 2 "two tokens" A --metric loss
refuses 2 "two tokens" A --loss
refuses 2 "--generate" ABC --temp 1
refuses 2 "--generate" ABC --top-p 1
refuses 2 "--svg" ABC --svg "$work/x.svg"
refuses 2 "--steer" ABC --toward A
refuses 2 "--steer" ABC --ablate L0H0 --away A
refuses 2 "--steer" ABC --direction random:1 --steer L0H0=1
refuses 2 "direction" ABC --steer L0H0=1
refuses 2 "direction" ABC --project L0H0
refuses 2 "--toward" ABC --steer L0H0=1 --toward A --toward B
refuses 2 "--direction" ABC --steer L0H0=1 --toward A --direction "$golden/odd7.golden"
refuses 2 "" ABC --steer L0H0=1 --toward ""
refuses 2 "" ABC --steer L0H0=1 --toward A --away ""
refuses 2 "" ABC --steer L0H0=1 --toward AAAAAAAAAAAAAAAAAAAAAAAAA
refuses 2 "--align" ABC --steer L0.resid_pre=1 --toward ABCD --align front
for random in random: random:x random:-1 random:1.5 "random: 1" random:99999999999999999999; do
    refuses 2 "--direction" ABC --steer L0H0=1 --direction "$random"
done
refuses 2 "" ABC --save "L0H0=$work/x.npy" --save "L0H1=$work/x.npy"
refuses 2 "" ABC --save "L0H0=$work/x" --attn L0H0 --svg "$work/x"
if has each; then
    refuses 2 "--each" ABC --each
    refuses 2 "--each" --each ABC --ablate heads
    refuses 2 "--each" ABC --ablate heads --each --scale heads=2 --each
    refuses 2 "--each" ABC --ablate heads --each -n 2
    caret 0 "--each" ABC --ablate L1H1 --each
fi

# sizes
refuses 2 "25 tokens" ABCDEABCDEABCDEABCDEABCDE
refuses 2 "25 tokens" --tokens "1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1"
refuses 2 "24" ABCDEF -n 19
refuses 2 "24" ABCDEF -n 1000000
refuses 2 "<|endoftext|>" ABC --bos
refuses 2 "4 tokens" ABC --patch L0H0 --source ABCD
name="a source of 4 tokens for a prompt of 3"
case $second in *"A|B|C") ok ;; *) bad "$name" "does not show the prompt's tokens: $second" ;; esac
case $third in *"A|B|C|D") ok ;; *) bad "$name" "does not show the source's tokens: $third" ;; esac
prompt_at=${second%%A|B*} source_at=${third%%A|B*}
if [ ${#prompt_at} -eq ${#source_at} ]; then ok; else bad "$name" "the tokens are not aligned"; fi
refuses 2 "2 tokens" --tokens "1 2 3" --patch L0H0 --source-tokens "1 2"
# answers
refuses 2 "A|B" ABC --answer AB
refuses 2 "A|B|C" ABC --answer "A|ABC"
refuses 2 "--answer" ABC --answer ""
refuses 2 "--answer" ABC --answer "A|"
refuses 2 "--answer" ABC --answer "|"
refuses 2 "--answer" ABC --answer "#53"
refuses 2 "--answer" ABC --answer "#99999999999999999999"
refuses 2 "--answer" ABC --answer "#x"
refuses 2 "--answer" ABC --answer "#-1"
refuses 2 "--versus" ABC --answer A --versus AB
refuses 2 "" ABC --answer "é"
refuses 2 "" "é"

# files that cannot be read or written
refuses 1 "/none.npy" ABC --set "L0H0=$dir/none.npy"
refuses 1 "$golden" ABC --set "L0H0=$golden"
refuses 1 "odd7.golden" ABC --set "L0H0=$golden/odd7.golden"
refuses 1 "/none.npy" ABC --steer L0H0=1 --direction "$dir/none.npy"
refuses 1 "/none/x.npy" ABC --save "L0H0=$dir/none/x.npy"
refuses 1 "/none/x.svg" ABC --lens --svg "$dir/none/x.svg"
mkdir "$dir/folder"
refuses 1 "/folder" ABC --save "L0H0=$dir/folder"
refuses 1 "/folder" ABC --lens --svg "$dir/folder"
refuses 1 "/folder" ABC --save "L0H0=$work/x.npy" --lens --svg "$dir/folder"
refuses 1 "/none.npy" ABC --set "L0H0=$dir/none.npy" --save "L0H0=$work/x.npy" --lens --svg "$work/x.svg"
if [ -c /dev/full ]; then
    refuses 1 "/dev/full" ABC --save "L0H0=/dev/full"
    refuses 1 "/dev/full" ABC --lens --svg /dev/full
    full() {                        # ARGUMENT...: stdout is full
        : > "$dir/out"
        "$mi" "$@" > /dev/full 2> "$dir/err" < /dev/null
        status=$?
        if decent 1; then ok; else title "$@"; bad "$name > /dev/full" "$why"; fi
    }
    full ABC
    full ABC --json
    full ABC --tsv
    full ABC -n 2
    full ABC --explain
    full --help
    full --version
    full --sites
fi
printf 'kept' > "$dir/kept"
run ABC --set "L0H0=$dir/none.npy" --save "L0H0=$dir/kept"
case $(cat "$dir/kept") in kept) ok ;; *) bad "--save" "a failing run destroys the file that was there" ;; esac

# ---- Hostile arguments: whatever stands in a string, no cursor moves and messages stay short

# One line or, with the argument and a caret, three; UTF-8, no control characters.
cat > "$dir/clean.awk" <<'END'
{
    for (i = 2; i <= NF; i++) {
        b = $i + 0
        if (more) {
            if (c1 && b < 160) why = "the control character " b
            else if (b < low || b > high) why = "broken UTF-8"
            c1 = 0
            more--; low = 128; high = 191
        } else if (b < 128) {
            if (b == 10 || (tabs && b == 9)) { if (b == 10) lines++ }
            else if (b < 32 || b == 127) why = "the control character " b
        } else if (b < 194 || b > 244) why = "broken UTF-8"
        else {
            c1 = b == 194
            more = b < 224 ? 1 : b < 240 ? 2 : 3
            low = b == 224 ? 160 : b == 240 ? 144 : 128
            high = b == 237 ? 159 : b == 244 ? 143 : 191
        }
        bytes++
    }
}
END {
    if (!why && more) why = "broken UTF-8 at the end"
    if (!why && most && bytes > most) why = bytes " bytes"
    if (why) print why
}
END
clean() {                           # FILE [MOST-BYTES [TABS]]
    od -v -tu1 < "$1" | awk -v most="${2:-0}" -v tabs="${3:-0}" -f "$dir/clean.awk"
}

hostile() {                         # ARGUMENT...: fails or not, but cleanly
    run "$@"
    if [ $status -eq 0 ]; then
        why=$(clean "$dir/out" 0 1)
        why=${why:+"stdout has $why"}
        [ ! -s "$dir/err" ] || why="succeeds and complains: $(cat "$dir/err")"
    elif decent "$((status == 1 ? 1 : 2))"; then
        why=$(clean "$dir/err" 4000)
        why=${why:+"stderr has $why"}
    fi
    if [ -z "$why" ]; then ok; else title "$label:" "$@"; bad "$name" "$why"; fi
}

long=ABCDEFGHIJKLM
while [ ${#long} -lt 100000 ]; do long=$long$long; done
for label in "escape codes" "C1 controls" "broken UTF-8" "100 kB"; do
    case $label in
    escape*) evil=$(printf '\033[2J\r\b\007\177x') ;;
    C1*) evil=$(printf '\302\2332J\302\205x') ;;
    broken*) evil=$(printf '\2332J\377\300\200\355\240\200\364\220\200\200x\342\202') ;;
    *) evil=$long ;;
    esac
    hostile "$evil"
    hostile "$evil" "$evil"
    hostile -- "-$evil"
    hostile "--$evil"
    hostile "--json=$evil"
    hostile "-$evil"
    hostile --tokens "$evil"
    hostile --tokens "1 2 $evil"
    hostile ABC --model "$evil"
    hostile ABC --tokenizer "$evil"
    hostile ABC --patch L0H0 --source "$evil"
    hostile ABC --patch L0H0 --source-tokens "$evil"
    hostile ABC --answer "$evil"
    hostile ABC --answer "#$evil"
    hostile ABC --answer A --versus "A|$evil"
    hostile ABC --at "$evil"
    hostile ABC --at "\"$evil\""
    hostile ABC --threads "$evil"
    hostile ABC -n 2 --temp "$evil"
    hostile ABC --ablate "$evil"
    hostile ABC --ablate "L0H0@$evil"
    hostile ABC --ablate "L0H0@\"$evil\",L0H5"
    hostile ABC --ablate "L0.$evil"
    hostile ABC --ablate "L0H0=$evil"
    hostile ABC --scale "L0H0=$evil"
    hostile ABC --set "L0H0=$evil"
    hostile ABC --save "L0H0=$dir/none/$evil"
    hostile ABC --steer L0H0=1 --toward "$evil"
    hostile ABC --steer L0H0=1 --direction "$evil"
    hostile ABC --steer L0H0=1 --direction "random:$evil"
    hostile ABC --metric "$evil"
    hostile ABC "--lens=$evil"
    hostile ABC --attn "$evil"
    hostile ABC --lens --svg "$dir/none/$evil"
    hostile ABC --color "$evil"
done
label="escape codes"
evil=$(printf 'x\033[2J\r\302\2332J')
ln -s "$golden/odd7.safetensors" "$dir/$evil" 2>/dev/null
if [ -e "$dir/$evil" ]; then
    hostile ABC -m "$dir/$evil" --explain
    hostile ABC -m "$dir/$evil" --json
    hostile ABC -m "$dir/$evil"
    hostile ABC -m "$dir/$evil" -n 2 --ablate L0H0
fi

# ---- What command lines mean, read from --json

json() {                            # PATHS ARGUMENT...: the values at these paths into $value
    want=$1
    shift
    run --json "$@"
    if [ $status -ne 0 ]; then value="exit status $status: $(head -n 3 "$dir/err")"
    else value=$(awk -v want="$want" -f tests/json.awk "$dir/out")
    fi
}
numbers() { json "" -k 3 "$@"; }    # ARGUMENT...: all that the experiment says
keep() { kept=$value; }

is() {                              # NAME EXPECTED: $value is this
    if [ "$value" = "$2" ]; then ok; else bad "$1" "expected $2, got $value"; fi
}
equal() {                           # NAME: $kept and $value are the same, and no failures
    case $kept$value in
    "exit "* | *"exit status"* | *malformed*)
        case $kept in exit* | malformed*) value=$kept ;; esac
        bad "$1" "$(printf '%s' "$value" | tr '\n' ' ')"
        ;;
    "$value$value") ok ;;
    *)
        printf '%s\n' "$kept" > "$dir/kept"
        printf '%s\n' "$value" > "$dir/value"
        bad "$1" "differs: $(diff "$dir/kept" "$dir/value" | head -n 4 | tr '\n' ' ')"
        ;;
    esac
}
differ() {                          # NAME
    case $kept$value in
    "exit "* | *"exit status"* | *malformed*)
        case $kept in exit* | malformed*) value=$kept ;; esac
        bad "$1" "$(printf '%s' "$value" | tr '\n' ' ')"
        ;;
    "$value$value") bad "$1" "makes no difference" ;;
    *) ok ;;
    esac
}
holds() {                           # NAME EXPRESSION: of awk, the numbers in $value are its fields
    case $value in
    exit* | malformed*) bad "$1" "$value" ;;
    *)
        if printf '%s\n' "$value" | awk "
            function near(a, b) { return (a - b) ^ 2 <= 1e-10 * (1 + a ^ 2 + b ^ 2) }
            function ok() { return $2 } { exit !ok() }"
        then ok; else bad "$1" "does not hold: $2, for $value"; fi
        ;;
    esac
}

P=ABCDEF S=GHIJKL
watch="--answer O --versus U"
metric=.tables.metric.values top=.tables.top
base=$metric[base][0] edited=$metric[edited][0] source=$metric[source][0]

# Which positions an address means
position() {                        # FIRST LAST PROMPT ADDRESS
    json ".edits[0].pos[0] .edits[0].pos[1] .edits[0].hits" "$3" --ablate "$4"
    is "the positions of $4 in $3" "$1 $2 $(($2 - $1 + 1))"
}
position 0 5 $P L1H1
position 3 3 $P L1H1@3
position 0 0 $P L1H1@0
position 5 5 $P L1H1@-1
position 0 0 $P L1H1@-6
position 2 4 $P L1H1@2-4
position 3 5 $P L1H1@-3--1
position 1 4 $P L1H1@1--2
position 0 5 $P 'L1H1@*'
position 0 5 $P L1H1@all
position 3 3 $P L1H1@D
position 3 3 $P 'L1H1@"D"'
position 3 4 $P 'L1H1@"DE"'
position 0 5 $P 'L1H1@"ABCDEF"'
position 3 3 $P L1H1@D=mean
position 3 3 ABCABD 'L1H1@A#2'
position 0 1 ABCABD 'L1H1@"AB"#1'
position 3 4 ABCABD 'L1H1@"AB"#2=mean'
position 1 3 A,=:B 'L1H1@",=:"'
position 2 2 A,=:B 'L1H1@"="=zero'
position 3 3 A,=:B 'L1H1@":"'
position 1 1 'A#B' 'L1H1@"#"'
position 1 1 'A-B' 'L1H1@-'
position 1 2 A3@B 'L1H1@"3@"'
position 2 2 $P blocks.1.attn.hook_z@2
position 2 2 $P embed@C
position 5 5 $P ln_f@-1
json ".edits[0].pos[0] .edits[0].pos[1] .edits[1].pos[0] .edits[1].pos[1] .edits[2].pos[0]" \
    $P --ablate L0H1,L0H2@-1,L1H0@2
is "@POS binds to its own element" "0 5 5 5 2"
json ".edits[0].op .edits[0].site .edits[0].tl .edits[0].columns[0] .edits[0].columns[1]" $P --ablate L1H1
is "the edit of L1H1" '"ablate" "L1.z" "blocks.1.attn.hook_z" 7 13'
json ".edits[0].site .edits[0].columns[0] .edits[0].columns[1]" $P --ablate L1H0-1.q
is "the edit of L1H0-1.q" '"L1.q" 0 13'
json ".edits[0].site .edits[0].columns[0] .edits[0].columns[1]" $P --ablate L2N3-5
is "the edit of L2N3-5" '"L2.mlp_post" 3 5'
json ".edits[0].site .edits[0].columns[0] .edits[0].columns[1]" $P --ablate L2N83.mlp_pre
is "the edit of L2N83.mlp_pre" '"L2.mlp_pre" 83 83'
json ".edits[0].site .edits[0].columns[1] .edits[0].tl" $P --ablate L0.ln1
is "the edit of L0.ln1" '"L0.ln1" 20 null'
json ".edits[0].site .edits[0].head .edits[0].pos[0] .edits[0].keys[0] .edits[0].keys[1]" \
    $P --knockout L1H2@4:1-2
is "the edit of --knockout L1H2@4:1-2" '"L1.scores" 2 4 1 2'
json ".edits[0].keys[0] .edits[0].keys[1]" $P --ablate L1H2.pattern@4
is "the keys of a pattern's row" "0 4"
json ".edits[0].keys[0] .edits[0].pos[0]" $P --knockout L1H2@-1:-2
is "negative query and key" "4 5"
json ".edits[0].keys[0] .edits[0].pos[0]" $P --knockout L1H2@E:B
is "query and key by text" "1 4"

# Addresses that mean the same
alike() {                           # OP ADDRESS ADDRESS...: the same numbers, and not base's
    op=$1 one=$2
    shift 2
    numbers $P $watch --$op "$one"
    keep
    for other; do
        numbers $P $watch --$op "$other"
        equal "--$op $one and $other"
    done
    value=$(printf '%s\n' "$kept" | sed -n 's/^\.tables\.metric\.values\[[a-z]*\].*=//p' | uniq | wc -l)
    if [ "$value" -eq 2 ]; then ok; else bad "--$op $one" "makes no difference"; fi
}
alike ablate heads 'L*H*' 'L0-2H0-2' 'L0H*,L1H*,L2H*' 'heads@*' 'heads@0--1' 'L*.z'
alike ablate mlps 'L*.mlp_out' 'L0-2.mlp_out' 'L0.mlp_out,L1-2.mlp_out@all'
alike ablate attns 'L*.attn_out'
alike ablate resid=mean 'L*.resid_pre=mean'
alike ablate L1H1 L1H1.z L1H1-1 L1H1=zero L1H1@0-5 L1H1@0-2,L1H1@3-5
alike ablate L1H1@-1 L1H1@5 L1H1@F 'L1H1@"F"' L1H1@5-5
alike ablate 'L1H*' L1.z blocks.1.attn.hook_z
alike ablate 'L1N*' L1.mlp_post L1N0-83 L1N0-40,L1N41-83
alike ablate L1.ln2=mean L1.ln2@0-5=mean
alike ablate not:L1H1 'L0H*,L1H0,L1H2,L2H*' not:L1H1.z
alike ablate 'not:L1H0-1,L0H*,L2H1' L1H2,L2H0,L2H2
alike ablate not:L1H1@2 'L0H*@2,L1H0@2,L1H2@2,L2H*@2'
alike ablate not:L1.mlp_out L0.mlp_out,L2.mlp_out
alike ablate 'not:L*N1-83' L0N0,L1N0,L2N0
alike ablate not:L1H1.v 'L0H*.v,L1H0.v,L1H2.v,L2H*.v'
alike ablate not:L1H1.pattern 'L0H*.pattern,L1H0.pattern,L1H2.pattern,L2H*.pattern'
alike ablate L1H1.pattern@4:1 'L1H1.pattern@4:1-1' L1H1.pattern@E:B
alike ablate L1H1.pattern@3 'L1H1.pattern@3:*' L1H1.pattern@3:0-3
alike ablate L1.pattern 'L1H*.pattern' 'L1H*.pattern@*:*' blocks.1.attn.hook_pattern
alike knockout L1H1@4:1 L1H1.scores@4:1 'L1H1@4:1-1'
alike knockout 'L*H*@5:0' heads@5:0 'heads@-1:-6'
alike scale 'L1H1.scores@*:0=0' 'L1H1.scores@0-5:0=0'
alike scale L1H1=0 L1H1=-0 L1H1=0.0 L1H1=0e5
alike scale L1H1=2.5 L1H1=25e-1 L1H1=+2.5 L1H1=2.50
alike scale 'L1H1@"F"=3' L1H1@F=3

# Every site under both its names; what zero and 1 do to it
"$mi" --sites > "$dir/sites" 2>/dev/null
every= heads_too= n_sites=0
{
    read -r header
    while read -r site width tl what; do
        n_sites=$((n_sites + 1))
        case $site in embed | pos_embed | ln_f*) address=$site ;; *) address=L1.$site ;; esac
        every=$every,$address
        case $site in
        q | k | v | z | scores | pattern) heads_too="$heads_too,L*H*.$site,L2H1.$site@2-3" ;;
        esac
        case $tl in
        -) ;;
        *)
            tl=$(printf %s "$tl" | sed 's/blocks\.l\./blocks.1./')
            alike scale "$address=1.5" "$tl=1.5"
            value=$(awk -v want=".edits[0].site .edits[0].tl" -f tests/json.awk "$dir/out")
            is "--json names $address" "\"$address\" \"$tl\""
            ;;
        esac
        case $site in *scale) continue ;; esac
        json "$edited" $P --answer O --metric logit --ablate "$address" -k 0
        keep
        json "$edited" $P --answer O --metric logit --scale "$address=0" -k 0
        equal "--ablate $address and --scale $address=0"
    done
} < "$dir/sites"
value=$n_sites
is "the sites of --sites" 21
every=${every#,}$heads_too
for edit in "--scale $every=1" "--freeze $every" "--patch $every --source same" \
    "--patch $every --source $P" "--patch $every=0 --source $S" "--noise embed,L1.resid_pre=0 --samples 1" \
    "--patch $every=0.3 --source same"; do
    # shellcheck disable=SC2086
    json "$base $edited" $P $watch $edit
    holds "$(printf %.30s "$edit") ... changes nothing" '$1 "" == $2 ""'
done
json "$edited $top.values[0][edited]" $P $watch --scale embed=3e38 --scale embed=3e38
holds "what is not finite is null" '$1 == "null" && ($2 == "null" || $2 == "-")'
run $P --scale embed=3e38 --scale embed=3e38
value=$status
is "the report of an edit that is not finite" 0

# The interventions
logit="--metric logit --answer O"
json "$edited $source" $P $watch --patch embed,pos_embed --source $S
holds "the source patched in at the bottom is the source" '$1 "" == $2 ""'
json "$edited $source" $P $watch --patch ln_f --source-tokens "38 39 40 41 42 43"
holds "the source patched in at the top is the source" '$1 "" == $2 ""'
json "$base $edited $source" $P $logit --patch ln_f=0.5 --source $S
holds "--patch =0.5 goes half way" 'near($2, ($1 + $3) / 2) && $1 != $3'
json "$base $edited $source" $P $logit --patch ln_f=-2 --source $S
holds "--patch =-2 goes the other way" 'near($2, 3 * $1 - 2 * $3) && $1 != $3'
json "$base $edited" $P $logit --scale ln_f=2
holds "--scale ln_f=2 doubles logits" 'near($2, 2 * $1) && $1 != 0'
json "$base $edited" $P $logit --ablate L1H0 --scale L0.resid_mid=2 --freeze ln_f
holds "--freeze ln_f undoes all that is below" '$1 "" == $2 ""'
json "$base $edited" $P $logit --freeze L1.resid_pre --ablate L0H1 --scale embed=2
holds "--freeze L1.resid_pre undoes layer 0" '$1 "" == $2 ""'
json "$base $edited" $P $logit --freeze L1.resid_pre@0-4 --ablate L0H1
holds "--freeze without the last position does not" '$1 != $2'
logits=
for at in 0 1 2 3 4 5; do json "$base" $P $logit --at $at -k 0; logits="$logits $value"; done
json "$edited" $P $logit --ablate ln_f=mean
value="$logits $value"
holds "--ablate ln_f=mean" 'near($7, ($1 + $2 + $3 + $4 + $5 + $6) / 6) && $1 != $2'
alike ablate L1.mlp_out=tlzero L1.mlp_out L1.mlp_out=zero
alike ablate embed=tlzero embed
numbers $P $watch --ablate L1H1=tlzero; keep
numbers $P $watch --ablate L1H1; differ "tlzero of a head against zero"
numbers $P $watch --ablate L1.ln1=tlzero; keep
numbers $P $watch --ablate L1.ln1; differ "tlzero of ln1 against zero"

numbers $P $watch --scale L1H1=2 --ablate L1H1=mean; keep
numbers $P $watch --ablate L1H1=mean
value=$(printf '%s\n' "$value" | grep edited) kept=$(printf '%s\n' "$kept" | grep edited)
equal "of --scale and --ablate the last one counts"
numbers $P $watch --ablate L1H1=mean --scale L1H1=2
value=$(printf '%s\n' "$value" | grep edited)
differ "the order of edits"
numbers $P $watch --scale L1H1=2 --scale L1H1=3; keep
numbers $P $watch --scale L1H1=6; equal "--scale twice"
numbers $P $watch --ablate L1H1 --ablate L1H1; keep
numbers $P $watch --ablate L1H1; equal "--ablate twice"

numbers $P $watch --knockout L1H1@0:0; keep
numbers $P $watch --ablate L1H1.pattern@0:0; equal "a query with one key: knockout is ablation"
numbers $P $watch --knockout L1H1@4:1; keep
numbers $P $watch --ablate L1H1.pattern@4:1; differ "knockout renormalizes, ablation does not"
numbers $P $watch --knockout 'heads@-1:*'; keep
numbers $P $watch --ablate 'L*H*.pattern@-1:*'; equal "all keys of a query knocked out"
numbers $P $watch --ablate heads@-1; equal "a query without keys has z = 0"
run $P --save "L1H1.scores=$dir/scores.npy" -k 0
{ dd if="$dir/scores.npy" bs=1 count=$((128 + (4 * 6 + 1) * 4)) 2>/dev/null
  printf '\000\000\200\377'
  dd if="$dir/scores.npy" bs=1 skip=$((128 + (4 * 6 + 2) * 4)) 2>/dev/null; } > "$dir/cut.npy"
numbers $P $watch --set "L1H1.scores=$dir/cut.npy"; keep
numbers $P $watch --knockout L1H1@4:1; equal "a knockout is a score of -inf"
numbers $P $watch --knockout L1H1@4:1 --save "L1H1.scores=$dir/cut2.npy"
if cmp -s "$dir/cut.npy" "$dir/cut2.npy"; then ok; else bad "--save of knocked out scores" "not as expected"; fi

# Directions
json "$base" $S $logit; toward=$value
json "$base" HGJILK $logit; away=$value
json "$base $edited" $P $logit --steer ln_f=1 --toward $S
value="$value $toward"
holds "--steer ln_f=1 --toward" 'near($2, $1 + $3) && $1 != $2'
json "$base $edited" $P $logit --steer ln_f@-1=-2 --toward $S --away HGJILK
value="$value $toward $away"
holds "--steer ln_f=-2 --toward --away" 'near($2, $1 - 2 * ($3 - $4)) && $1 != $2'
json "$base $edited" $P $logit --steer ln_f=0.5 --away HGJILK
value="$value $away"
holds "--steer ln_f=0.5 --away" 'near($2, $1 - 0.5 * $3) && $1 != $2'
run $S --save "L1.resid_post@-1=$dir/direction.npy" -k 0
numbers $P $watch --steer L1.resid_post=2 --toward $S; keep
numbers $P $watch --steer L1.resid_post=2 --direction "$dir/direction.npy"
equal "--direction of a file and --toward"
numbers $P $watch --project L1.resid_post --toward $S; keep
numbers $P $watch --project L1.resid_post --direction "$dir/direction.npy"
equal "--project along a file and --toward"
json "$base $edited" $P $logit --project ln_f --toward $P
holds "--project of a row along itself" '$2 ^ 2 < 1e-8 && $1 ^ 2 > 1e-4'
json "$edited" $P $logit --project ln_f --toward $S; keep
json "$edited" $P $logit --project ln_f --toward $S --project ln_f --toward $S
value="$kept $value"
holds "--project twice" 'near($1, $2)'
numbers $P $watch --steer L1.resid_post=2 --direction random:1; keep
numbers $P $watch --steer L1.resid_post=2 --direction random:1; equal "--direction random:1 again"
numbers $P $watch --steer L1.resid_post=2 --direction random:2; differ "--direction random:2 for random:1"
numbers $P $watch --steer L1.resid_post=2 --toward $S --direction random:1; differ "a random direction of some norm"
pushed() { run $P "$@"; value=$(sed -n 's/.*(\(|C.*\)).*/\1/p' "$dir/out"); }
pushed --steer L1.resid_post=2 --toward $S; keep
pushed --steer L1.resid_post=2 --toward $S --direction random:3; equal "a random direction has the same norm"
value=${value:-missing}
case $value in *[0-9]*) ok ;; *) bad "--steer" "does not report |C v| / |h|" ;; esac
json "$edited" $P $watch --steer L0H1=1 --toward $S --ablate L2H0 --steer L1.mlp_out=3 --away B; keep
json "$edited" $P $watch --steer L0H1=1 --ablate L2H0 --toward $S --steer L1.mlp_out=3 --away B
equal "--toward belongs to the --steer before it"
json "$edited .edits[0].pos[0] .edits[0].pos[1]" CDEF $logit --steer embed=1 --toward AB --away CD --align front
keep
json "$base" ABEF $logit
value="$kept $value"
holds "--align front, position by position" 'near($1, $4) && $2 == 0 && $3 == 1'
numbers CDEF $watch --steer embed=1 --toward AB --away CD --align last; keep
numbers CDEF $watch --steer embed=1 --toward AB --away CD; equal "--align last is the default"

# Noise
json "$edited .samples .seed" $P $watch --noise embed=0.5; keep
json "$edited .samples .seed" $P $watch --noise embed=0.5 --samples 10 --seed 0; equal "10 samples and seed 0 are the default"
json "$edited .samples .seed" $P $watch --noise embed=0.5 --samples 10 --seed 1; differ "--seed 1 for --seed 0"
holds "--json has seed and samples" '$2 == 10 && $3 == 1'
json "$edited" $P $watch --noise embed=0.5 --samples 3; differ "--samples"
json "$edited" $P $watch --noise embed=0.5 --seed 2147483647; differ "the largest seed"
json "$edited" $P $watch --noise embed@1=0.5 --at 0 --samples 4; keep
json "$base" $P $watch --at 0; value="$kept $value"
holds "noise at position 1 leaves position 0 alone" 'near($1, $2)'
header=$(dd if="$golden/odd7.safetensors" bs=1 skip=8 count=2000 2>/dev/null)
wte=${header#*wte.weight\"} wte=${wte#*offsets\":\[} from=${wte%%,*}
n_header=$(od -An -tu4 -N4 "$golden/odd7.safetensors" | tr -d ' ')
sigma=$(od -An -v -tf4 -j $((8 + n_header + from)) -N $((53 * 21 * 4)) "$golden/odd7.safetensors" |
    awk '{ for (i = 1; i <= NF; i++) { n++; s += $i; q += $i * $i } }
         END { printf "%.9g", sqrt(q / n - (s / n) ^ 2) }')
json "$edited" $P $watch --noise embed=2s --samples 2; keep
json "$edited" $P $watch --noise "embed=$(awk "BEGIN { printf \"%.9g\", 2 * $sigma }")" --samples 2
value="$kept $value"
holds "--noise embed=2s is two standard deviations of wte ($sigma)" '($1 - $2) ^ 2 < 1e-8'

# --save and --set: shapes, and the values come back
mkdir "$dir/npy"
cat > "$dir/saved" <<'END'
embed (6, 21)
pos_embed@-1 (1, 21)
L1.resid_pre (6, 21)
L*.resid_pre@2-4 (3, 3, 21)
L0-1.ln1_scale (2, 6, 1)
L1.ln1_scale@2 (1, 1)
L1.ln1 (6, 21)
L1.q (6, 3, 7)
L1H1.q (6, 7)
L1H1-1.q (6, 1, 7)
L0-1H1-2.q@1-3 (2, 3, 2, 7)
L*.k (3, 6, 3, 7)
L2H0-1.k@5 (1, 2, 7)
L1.v (6, 3, 7)
L*H2.v@*  (3, 6, 7)
L1.scores (3, 6, 6)
L1H1.scores (6, 6)
L*H0-1.scores@2-4 (3, 2, 3, 6)
L1H1.pattern (6, 6)
L1H1-1.pattern@3 (1, 1, 6)
L*.pattern (3, 3, 6, 6)
L1H1 (6, 7)
heads (3, 6, 3, 7)
L1.z@1-2 (2, 3, 7)
L1.attn_out (6, 21)
attns (3, 6, 21)
L1-1.resid_mid (1, 6, 21)
L1.ln2_scale (6, 1)
L*.ln2@0 (3, 1, 21)
L1.mlp_pre (6, 84)
L1N5.mlp_pre (6, 1)
L1N5 (6, 1)
L0-1N3-6@-2 (2, 1, 4)
L1.mlp_post (6, 84)
mlps (3, 6, 21)
L2.mlp_out@F (1, 21)
L2.resid_post@"CDE" (3, 21)
blocks.1.hook_resid_post (6, 21)
ln_f_scale (6, 1)
ln_f (6, 21)
logits (6, 53)
END
set --
n=0
while read -r address shape; do
    n=$((n + 1))
    case $address in *CDE*) address='L2.resid_post@"IJK"' ;; *@F) address=L2.mlp_out@-1 ;; esac
    set -- "$@" --save "$address=$dir/npy/$n.npy"
done < "$dir/saved"
run $S -k 0 "$@"
value=$status
is "--save of $n arrays" 0
n=0
while read -r address shape; do
    n=$((n + 1))
    { IFS= read -r header < "$dir/npy/$n.npy"; } 2>/dev/null
    case $header in
    *NUMPY*"{'descr': '<f4', 'fortran_order': False, 'shape': $shape, }"*) ok ;;
    *) bad "--save $address" "expected the shape $shape, the header is $(printf %s "$header" | tr -dc '\040-\176')" ;;
    esac
    value=$(od -An -tx1 -N10 "$dir/npy/$n.npy" | tr -d ' ')
    is "the first bytes of --save $address" 934e554d505901007600
    size=$(($(printf %s "$shape" | sed 's/, / * /g') * 4 + 128))
    value=$(($(wc -c < "$dir/npy/$n.npy")))
    is "the size of --save $address" $size
    [ "$address" != logits ] || continue
    # shellcheck disable=SC2086
    run $P -k 3 --tsv $watch --set "$address=$dir/npy/$n.npy"
    kept=$(awk -F'\t' '/^top.*edited/ || /^metric.*edited/' "$dir/out"; cat "$dir/err")
    run $P -k 3 --tsv $watch --patch "$address" --source $S
    value=$(awk -F'\t' '/^top.*edited/ || /^metric.*edited/' "$dir/out"; cat "$dir/err")
    case $address in
    'L2.resid_post@"CDE"') ok ;;    # leaves the last position alone
    *) case $value in *logit_diff*) equal "--set $address and --patch" ;; *) bad "--set $address" "$value" ;; esac ;;
    esac
done < "$dir/saved"
logits_of() { od -An -v -tf4 -j $((128 + 5 * 53 * 4)) -N $((53 * 4)) "$1" | tr -s ' \n' '\n\n' | sed 1d; }
json "$top.tokens[0][base].id $top.values[0][base] $top.tokens[52][base].id $top.values[52][base]" $S -k 53
kept=$value value=$(logits_of "$dir/npy/$n.npy" | awk -v found="$value" '
    { split(found, f, " "); sum += exp($1); logit[NR - 1] = $1 }
    END { print NR, f[2], exp(logit[f[1]]) / sum, f[4], exp(logit[f[3]]) / sum }')
holds "--save logits" '$1 == 53 && near($2, $3) && $4 > 0 && near($4 / $5, 1)'
numbers $P $watch --ablate L0H1 --save "L1.mlp_out=$dir/edited.npy"
numbers $P $watch --set "L1.mlp_out=$dir/edited.npy"; keep
numbers $P $watch; differ "--save saves the edited run"
refuses 1 "(6, 7)" $P --set "L1.z=$dir/npy/9.npy"
refuses 1 "(6, 7)" $P --set "L1H1.q@2=$dir/npy/9.npy"
refuses 1 "(6, 7)" ABC --set "L1H1.q=$dir/npy/9.npy"
refuses 1 "numbers" $P --steer L1.mlp_out=1 --direction "$dir/npy/9.npy"
dd if="$dir/npy/9.npy" of="$dir/short.npy" bs=200 count=1 2>/dev/null
refuses 1 "short.npy" $P --set "L1H1.q=$dir/short.npy"

# Metrics, answers, positions
run $P --save "logits=$dir/logits.npy"
logits_of "$dir/logits.npy" > "$dir/logits"
json "" $P -k 1000
printf '%s\n' "$value" | awk -F= '
    FILENAME != "-" { logit[FNR - 1] = $1; sum += exp($1); next }
    /^\.tables\.top\.tokens.*\[base\]\.id=/ { id[++n] = $2 }
    /^\.tables\.top\.values.*\[base\]=/ { prob[++m] = $2 }
    END {
        for (i = 1; i <= n; i++) {
            if (i > 1 && prob[i] > prob[i - 1]) why = "not in order"
            total += prob[i]
            if ((prob[i] - exp(logit[id[i]]) / sum) ^ 2 > 1e-12) why = "prob of " id[i]
            if (id[i] == 46)
                printf "%.9g %.9g %.9g %d ", logit[46], prob[i], logit[46] - log(sum), i
        }
        printf "%.9g %.9g ", logit[52], exp(logit[52]) / sum
        if (n != 53 || m != 53) why = n " tokens"
        if ((total - 1) ^ 2 > 1e-10) why = "probabilities sum to " total
        print why
    }' "$dir/logits" - > "$dir/facts"
read -r o_logit o_prob o_logprob o_rank u_logit u_prob why < "$dir/facts"
if [ -z "$why" ]; then ok; else bad "-k 1000" "$why"; fi
facts="$o_logit $o_prob $o_logprob $o_rank $u_logit $u_prob"
metric() {                          # NAME EXPRESSION ARGUMENT...: $1 is the metric, $2... the facts
    name=$1 expression=$2
    shift 2
    json "$base" $P -k 0 "$@"
    value="$value $facts"
    holds "$name" "$expression"
}
metric "--metric logit" 'near($1, $2)' --answer O --metric logit
metric "--metric prob" 'near($1, $3)' --answer O --metric prob
metric "prob is the default with an answer" 'near($1, $3)' --answer O
metric "--metric logprob" 'near($1, $4)' --answer O --metric logprob
metric "--metric rank" '$1 == $5' --answer O --metric rank
metric "--metric logit_diff" 'near($1, $2 - $6)' --answer O --versus U --metric logit_diff
metric "logit_diff is the default with two answers" 'near($1, $2 - $6)' --answer O --versus U
metric "--answer #46" 'near($1, $2)' --answer "#46" --metric logit
metric "--answer O|U, prob" 'near($1, $3 + $7)' --answer "O|U"
metric "--answer O|#52, logit" 'near($1, log(exp($2) + exp($6)))' --answer "O|#52" --metric logit
metric "--answer O|U|O counts O once" 'near($1, $3 + $7)' --answer "O|U|O"
metric "kl is the default without an answer" '$1 == 0 && $1 != ""'
json ".metric .prompt.answer[0].id .prompt.answer[0].text .prompt.versus[0].text .prompt.at" $P $watch
is "--json describes the metric" '"logit_diff" 46 "O" "U" 5'
json ".metric .prompt.answer[1].id .prompt.at" $P --answer "O|U" --at 2
is "--json describes two answers" '"prob" 52 2'
json ".metric" $P
is "the metric without answers" '"kl"'
json "" $P -k 1000 --ablate L1.mlp_out
value=$(printf '%s\n' "$value" | awk -F= '
    /^\.tables\.metric\.values\[edited\]/ { kl = $2 }
    /^\.tables\.top\.values/ { prob[++n] = $2 }
    /^\.tables\.top\.tokens.*\.id=/ { id[++m] = $2 }
    END {
        for (i = 1; i <= n; i += 2) { p[id[i]] = prob[i]; q[id[i + 1]] = prob[i + 1] }
        for (i in p) { sum += p[i] * log(p[i] / q[i]); tokens++ }
        print kl, sum, n, m, tokens
    }')
holds "--metric kl" '($1 - $2) ^ 2 < 1e-10 && $1 > 0 && $3 == 106 && $4 == 106 && $5 == 53'
json "$base" ABC $logit; keep
json "$base" $P $logit --at 2; equal "--at 2 of six tokens is the end of three"
json "$base" $P $logit --at=-4; equal "--at -4"
json "$base" $P $logit --at C; equal "--at C"
json "$base" $P $logit --at @2; equal "--at @2"
json "$base" $P $logit --at '"C"'; equal '--at "C"'
losses=
for at in 0 1 2 3 4; do
    next=$(printf %s BCDEF | cut -c$((at + 1)))
    json "$base" $P --at $at --answer $next --metric logprob
    losses="$losses $value"
done
json ".tables.loss.rows[0] .tables.loss.values[0][base] .tables.loss.values[4][base] $base" $P --loss --metric loss
value="$value $losses"
holds "--loss and --metric loss" '$1 == "\"1" && $2 == "B\"" && near($3, -$6) && near($4, -$10) &&
    near($5, -($6 + $7 + $8 + $9 + $10) / 5)'
json ".tables.loss.values[0][base] .tables.loss.values[0][edited] .tables.loss.values[4][edited]" $P --loss --ablate embed
holds "--loss of an edited run" '$1 != $2 && $3 > 0'

# --lens, --attn
lens=.tables.lens depth=.tables.depth.values
json "$lens.rows[0] $lens.rows[6] $lens.rows[7] $lens.cols[0] $lens.cols[5] $lens.cols[6]" $P --lens
is "the points of --lens" '"L0.resid_pre" "L2.resid_post" - "0 A" "5 F" -'
end=$depth[L2.resid_post][0] before=$depth[L2.resid_mid][0] first=$depth[L0.resid_pre][0]
for form in --lens --lens=each --lens=final "--lens final"; do
    json "$base $end $before $first" $P $logit $form
    holds "the end of $form is the model's answer" '$1 "" == $2 "" && $1 != $3 && $1 != $4'
    json "$lens.tokens[6][5].id $top.tokens[0][base].id $lens.values[6][5] $top.values[0][base]" $P -k 1 $form
    holds "the end of $form is the likeliest token" '$1 == $2 && near($3, $4)'
done
ends="$metric[base][0] .tables.lens_prob.values[6][5] .tables.lens_rank.values[6][5] .tables.lens_kl.values[6][5]"
json "$ends .tables.lens_kl.values[5][5]" $P --lens --answer O
value="$value $(json "$base" $P --answer O --metric rank; echo "$value")"
holds "rank, prob and KL at the end of --lens" '$1 "" == $2 "" && $3 == $6 && $4 == 0 && $5 > 0'
json "$first" $P $logit --lens; keep
json "$first" $P $logit --lens=final; differ "--lens=final"
json "$edited $end" $P $logit --lens --ablate L1H1
holds "--lens shows the edited run" '$1 "" == $2 ""'
attn='.tables.pattern_L1H1.values'
json ".tables.pattern_L0H0.values[0][0] .tables.pattern_L0H0.values[0][1] .tables.pattern_L2H2.values[0][0] .tables.pattern_L3H0.values[0][0]" \
    $P --attn 'L*H*'
is "--attn L*H*" "1 null 1 -"
json "$attn[4][0] $attn[4][1] $attn[4][2] $attn[4][3] $attn[4][4]" $P --attn L1H1
value="$value $(run $P -k 0 --save "L1H1.pattern@4=$dir/row.npy"; od -An -v -tf4 -j128 "$dir/row.npy" | tr '\n' ' ')"
holds "--attn L1H1 and --save L1H1.pattern" \
    'near($1, $6) && near($5, $10) && near($1 + $2 + $3 + $4 + $5, 1) && $11 == 0'
json ".tables.pattern_L1H1.rows[0] .tables.pattern_L1H1.rows[1] $attn[3_D][3_D] $attn[2][0] .tables.pattern_L2H0.rows[0]" $P --attn L1H1@2-3,L2H0
holds "--attn L1H1@2-3,L2H0" '$1 $2 == "\"2C\"" && $3 $4 == "\"3D\"" && $5 > 0 && $6 == "-" && $7 == "\"0"'
json ".tables.scores_L1H1.values[3][1] .tables.scores_L1H1.values[3][0]" $P --attn L1H1.scores --knockout L1H1@3:1
holds "--attn of knocked out scores" '$1 == "null" && $2 ^ 2 > 0'
json ".tables.pattern_L1H0.values[3][1]" $P --attn L1.pattern --knockout L1H0@3:1
is "--attn of a knocked out pattern" 0

# Generation
text=.text.base
json "$top.tokens[0][base].text" $P; keep
json $text $P -n 1; equal "-n 1 is the likeliest token"
json $text $P -n 12; keep
json $text $P --generate=12; equal "--generate"
json $text $P -n 12 --temp 0 --seed 7; equal "--temp 0"
json $text $P -n 12 --top-p 0 --seed 7; equal "--top-p 0 is greedy"
json $text $P -n 12 --temp 1 --top-p 0; equal "--temp 1 --top-p 0 is greedy"
json $text $P -n 18; value=$(printf %.13s "$value") kept=$(printf %.13s "$kept"); equal "-n 18 begins like -n 12"
json $text $P -n 12 --temp 1 --seed 3; keep
json $text $P -n 12 --temp 1 --seed 3; equal "--seed 3 again"
json $text $P -n 12 --temp 1 --top-p 1 --seed 3; equal "--top-p 1 leaves nothing out"
json $text $P -n 12 --top-p 1 --seed 3; equal "--top-p alone has --temp 1"
json $text $P -n 12 --temp 1 --seed 4; differ "--seed 4 for --seed 3"
grown() {                           # ARGUMENT...: four tokens, one run of a growing prompt for each
    ids="32 33 34 35 36 37" grown=
    for step in 1 2 3 4; do
        json "$top.tokens[0][edited].id $top.tokens[0][edited].text" --tokens "$ids" "$@"
        ids="$ids ${value%% *}" token=${value#* \"}
        grown=$grown${token%\"}
    done
    kept="\"$grown\""
    json .text.edited $P -n 4 "$@"
    equal "-n 4 $* and the growing prompt"
}
grown --ablate L1H1 --scale L0.mlp_out=0.5
grown --ablate heads@2 --scale embed=3
grown --steer L1.resid_post=4 --toward $S
grown --knockout 'heads@4-5:0-2' --scale L2.resid_post=-1
json ".text.base .text.edited" $P -n 4 --patch embed,pos_embed --source $S; kept=${value#* }
json $text $S -n 4
holds "generating after a patched prompt" 'length($1) > 5'
numbers $P -n 5; keep
run $P -n 5
generated=$(printf '%s\n' "$kept" | sed -n 's/^\.text\.base="\(.*\)"$/\1/p' | sed 's/\\\(.\)/\1/g')
case $(cat "$dir/out") in
*"$P$generated"*) ok ;;
*) bad "-n 5" "does not print $P$generated but $(cat "$dir/out")" ;;
esac
run $P -n 5 --tsv
if grep -qF -e "$generated" "$dir/out"; then ok; else bad "-n 5 --tsv" "does not print the text"; fi

# Input and options
numbers $P $watch --ablate L1H1; keep
numbers --tokens "32 33 34 35 36 37" $watch --ablate L1H1; equal "--tokens"
numbers "--tokens=32 33 34 35 36 37" --answer=O --versus=U --ablate=L1H1 --metric=logit_diff --at=-1 \
    --threads=1 --color=always --seed=0; equal "--flag=VALUE"
json "" --top=3 $P $watch --ablate L1H1; equal "--top=VALUE"
json "" -k3 $P $watch --ablate L1H1; equal "-k3"
numbers --answer O --ablate L1H1 $P --versus U; equal "the prompt between options"
numbers $watch --ablate L1H1 -- $P; equal "the prompt after --"
numbers -m "$golden/odd7.safetensors" $P $watch --ablate L1H1
value=$(printf '%s\n' "$value" | grep -v '^.model.file') kept_all=$kept
kept=$(printf '%s\n' "$kept" | grep -v '^.model.file'); equal "-m"
kept=$kept_all
numbers --threads 4 $P $watch --ablate L1H1; equal "--threads 4"
piped() {                           # INPUT ARGUMENT...
    printf "$1" > "$dir/in"
    shift
    "$mi" --json -k 3 "$@" < "$dir/in" > "$dir/out" 2> "$dir/err"
    status=$?
    value=$(awk -f tests/json.awk "$dir/out")
    [ $status -eq 0 ] || value="exit status $status: $(cat "$dir/err")"
}
piped "$P" - $watch --ablate L1H1; equal "the prompt from standard input"
piped "$P\n" $watch - --ablate L1H1; equal "one newline at its end is dropped"
piped "$P" -- - $watch --ablate L1H1
piped "$P\n\n" - $watch             # odd7 has no token for a newline
case $value in
*0x0A*) ok ;;
*) bad "a prompt that ends with two newlines" "does not complain of one: $value" ;;
esac
numbers $P $watch --patch L1H1@-1 --source $S; keep
piped "$S\n" $P $watch --patch L1H1@-1 --source -; equal "the source from standard input"
numbers $P $watch --ablate L1H1 --patch L1H2 --source same; keep
piped "$P\n" - $watch --ablate L1H1 --patch L1H2 --source same; equal "--source same with standard input"
json ".prompt.tokens[0].text .prompt.tokens[1].text" -- -A
is "a prompt that begins with -" '"-" "A"'
run $P --ablate L1H1 --lens --attn L1H1 --loss -k 3 --threads 1; cp "$dir/out" "$dir/one"
run $P --ablate L1H1 --lens --attn L1H1 --loss -k 3 --threads 4
if [ $status -eq 0 ] && cmp -s "$dir/one" "$dir/out"; then ok; else bad "--threads" "1 and 4 print different things"; fi

# Output
text_has() { if grep -qF -e "$2" "$dir/out"; then ok; else bad "$1" "does not print \"$2\""; fi; }
escape=$(printf '\033')
pictures="--ablate L1H1 --lens --attn L1H1 -k 3 --answer O"
run $P $pictures
text_has "a report" base
text_has "a report" edited
text_has "a report" "--ablate L1H1"
text_has "a report" "probability of O"
for setting in "" "--color never" "--color auto"; do
    run $P $pictures $setting
    if grep -q "$escape" "$dir/out"; then bad "$setting in a pipe" "prints colours"; else ok; fi
    why=$(clean "$dir/out")
    if [ -z "$why" ]; then ok; else bad "$setting in a pipe" "prints $why"; fi
done
for depth in truecolor 24bit ""; do
    code=";48;2;" ink="38;2;"
    [ -n "$depth" ] || code=";48;5;" ink="38;5;"
    COLORTERM=$depth "$mi" $P $pictures --color always > "$dir/out" 2> "$dir/err"
    text_has "--color always, COLORTERM=$depth" "$code"
    text_has "--color always, COLORTERM=$depth" "$escape[$ink"
    sed "s/$escape\[[0-9;]*m//g" "$dir/out" > "$dir/plain"
    run $P $pictures
    if cmp -s "$dir/plain" "$dir/out"; then ok; else bad "--color always" "differs from never in more than colours"; fi
done
NO_COLOR=1 COLORTERM=truecolor "$mi" $P $pictures --color always > "$dir/out" 2> "$dir/err"
text_has "--color always with NO_COLOR" ";48;2;"
run $P --ablate L1H1=mean; text_has "--ablate =mean" posmean
run $P --answer A --versus B --ablate L1H1 -k 0
if grep -q 'likeliest' "$dir/out"; then bad "-k 0" "names the likeliest token: $(cat "$dir/out")"; else ok; fi
run $P --noise embed=1; text_has "--noise" "10 samples, seed 0"
run $P $watch --patch L1H1 --source $S; text_has "--patch" normalized
text_has "--patch" source
tidy='NR == 1 { if ($0 != "table\tprompt\trow\tcol\tvalue\tse\ttoken\taddress") why = "header " $0; next }
    NF != 8 { why = NF " fields in " $0 }
    END { print why n }'
run $P --tsv -k 4 --ablate L1H1 $watch
awk -F'\t' '$1 == "top" && NR <= 9 && ($3 != int(NR / 2) || $4 != (NR % 2 ? "edited" : "base") || $7 == "") { why = "row " $0 }
    $1 == "metric" { if ($4 != "logit_diff" || $3 !~ /^(base|edited)$/ || $2 != "") why = "row " $0; n++ }
    $1 == "top" { n++ } $6 $8 != "" && NR > 1 { why = "an error or an address in " $0 }'"$tidy" "$dir/out" > "$dir/facts"
value=$(cat "$dir/facts"); is "--tsv" 10
run $P --tsv --attn L1H1
awk -F'\t' '$1 == "pattern L1H1" { n++; if ($8 !~ /^L1H1.pattern@[0-5]:[0-5]$/) why = "address " $8 }'"$tidy" \
    "$dir/out" > "$dir/facts"
value=$(cat "$dir/facts"); is "--tsv --attn" 21
svg=$work/picture.svg
run 'A<B&C>"D' --lens --attn L1H1,L2H0.scores --loss --ablate L0H0 --svg "$svg"
value=$status; is "--svg" 0
awk '
    {
        rest = $0
        while (match(rest, /<[^>]*>/)) {
            text = substr(rest, 1, RSTART - 1); tag = substr(rest, RSTART, RLENGTH)
            rest = substr(rest, RSTART + RLENGTH)
            gsub(/&(amp|lt|gt|quot|apos|#[0-9]+);/, "", text)
            if (text ~ /[<&]/) why = "unescaped text: " text
            name = tag; gsub(/[<>\/]/, " ", name); split(name, word, " ")
            if (word[1] == "title") titles++
            if (tag ~ /^<[?!]/ || tag ~ /\/>$/) continue
            if (tag ~ /^<\//) { if (stack[depth--] != word[1]) why = "unbalanced " tag }
            else { stack[++depth] = word[1]; if (!root) root = word[1] }
        }
        if (rest ~ /[<&>]/) why = "unescaped: " rest
        urls = $0; gsub(/xmlns="http:\/\/www\.w3\.org\/2000\/svg"/, "", urls)
        if (urls ~ /href|url\(|http|<script|<image|@import/) why = "refers to something: " $0
    }
    END {
        if (depth) why = "unclosed " stack[depth]
        if (root != "svg") why = "the root is " root
        if (!titles) why = "no <title>"
        print why
    }' "$svg" > "$dir/facts"
value=$(cat "$dir/facts"); is "the --svg file" ""
value=$(ls "$work"); is "what --svg leaves" picture.svg
if command -v xmllint > /dev/null 2>&1; then
    if xmllint --noout "$svg" 2> "$dir/facts"; then ok; else bad "xmllint" "$(head -n 1 "$dir/facts")"; fi
fi
rm -f "$svg"
run $P --attn L1H1 --svg "$(printf '%s/a\377b' "$work")" --json
iconv -f UTF-8 -t UTF-8 "$dir/out" > /dev/null 2>&1 || [ $? -eq 127 ] || bad "argv in --json" "is not UTF-8"
case $(cat "$dir/out") in *"$(printf '/a\357\277\275b"')"*) ok ;; *) bad "argv in --json" "no U+FFFD for a broken byte" ;; esac
rm -f "$work"/*
json ".model.n_layer .model.n_head .model.d_model .model.n_ctx .model.n_vocab .version .argv[2] .argv[3]" $P
is "--json describes the model" "3 3 21 24 53 \"$("$mi" --version | sed 's/mi //')\" \"$P\" -"
run $P --explain --ablate L1H1@2 --save "L0H0=$work/x.npy" --lens --svg "$work/x.svg"
text_has "--explain" blocks.1.attn.hook_z
text_has "--explain" "3 layers"
for file in "$work"/*; do
    if [ -e "$file" ]; then bad "--explain" "writes $file"; rm -f "$file"; else ok; fi
done

# The cells of a list are named in full
json ".tables.change.rows[0] .tables.change.rows[3] .tables.change.rows[4] .tables.change.rows[7]" $P --ablate not:L1H1 --each
is "the cells of not:" '"L0H0" "L1H0" "L1H2" "L2H2"'
json ".tables.change.rows[0] .tables.change.rows[8] .tables.change.rows[9] .tables.change.rows[11]" $P --ablate heads,mlps --each
is "the cells of a list of heads and MLPs" '"L0H0" "L2H2" "L0.mlp_out" "L2.mlp_out"'
json ".tables.change.rows[0] .tables.change.rows[2] .tables.change.rows[3]" $P --ablate 'L*.resid_mid@"B",embed@-1' --each
is "the cells of a list with positions" '"L0.resid_mid@\"B\"" "L2.resid_mid@\"B\"" "embed@-1"'
json ".tables.change.rows[0] .tables.change.rows[6] .tables.change.cols[0]" $P --ablate 'L1.attn_out@*,L1.mlp_out@*' --each
is "the cells of a list over positions" '"L1.attn_out 0 A" "L1.mlp_out 0 A" ""'
json ".argv[3] .argv[4] .tables.change.title" $P --ablate 'L*H*' --each
is "--json says what is swept" '"--ablate" "L*H*" "--ablate, one run per cell: change of kl from base"'

# An edit that a later one overwrites, a direction of zeros, what was saved, what an SVG shows
run $P --ablate L1H1 --freeze heads
text_has "an edit that is overwritten" "--freeze heads comes after it"
run $P --freeze heads --ablate L1H1
if grep -q "comes after it" "$dir/out"; then bad "an edit that is not overwritten" "is said to be"; else ok; fi
run $P --ablate L1H1 --freeze L1H1@1-5
if grep -q "comes after it" "$dir/out"; then bad "an edit overwritten in part" "is said to be"; else ok; fi
run $P --save "L*H1=$work/x.npy"
text_has "--save" "x.npy: float32 (3, 6, 7)"
run $P --attn L1H1 --ablate L0H2 --svg "$work/x.svg"
cp "$work/x.svg" "$dir/out"; rm -f "$work"/*
text_has "the caption of an SVG" "ABCDEF"
text_has "the caption of an SVG" "--ablate L0H2"

# What is no number is neither no effect nor the best
json "$edited" $P --answer A --scale L0.resid_pre=3e38 --metric kl; is "the KL of a run of no numbers" null
json "$edited" $P --answer A --scale L0.resid_pre=3e38 --metric rank; is "the rank in a run of no numbers" null
run $P --scale 'L*.resid_pre@4-5=3e38' --each
text_has "a sweep of no numbers" "Not a number in any cell"
run $P --scale 'L*.resid_pre=3e38' --each
text_has "a list of no numbers" "L2       not a number"
run $P --ablate L0-1H0 --ablate L0H0 --ablate L1H0
if grep -q "comes after it" "$dir/out"; then bad "an edit that two others overwrite" "is said to be one's"; else ok; fi
refuses 2 "name of a file" $P --lens --svg ""

# What a table says cannot be more than a position
printf 'prompt\tanswer\tS\nABCABC\tD\t0,L0H2@0\nABDABD\tC\t0\n' > "$dir/cell.tsv"
refuses 2 "no index, and not in the prompt" --data "$dir/cell.tsv" --ablate 'L0H0@S=mean'
printf 'prompt\tanswer\tS\nABCABC\tD\t0"1\n' > "$dir/cell.tsv"
refuses 2 'says "0"1"' --data "$dir/cell.tsv" --ablate 'L0H0@S=mean'
printf 'prompt\tanswer\nABCABC\tD\n\0ABC\tD\n' > "$dir/cell.tsv"
refuses 1 "zero byte" --data "$dir/cell.tsv"
printf 'prompt\tanswer\nABCABC\tD\nABCD\tE\n' > "$dir/cell.tsv"
refuses 2 "not those of row 1" --data "$dir/cell.tsv" --ablate 'heads@*=mean' --each
refuses 1 "another shape" --data "$dir/cell.tsv" --ablate 'heads@*' --each
printf 'prompt\tanswer\tsource\nABCABC\tD\tABDABD\nABDABD\tE\tABCABC\n' > "$dir/cell.tsv"
run --data "$dir/cell.tsv" --ablate heads=mean --mean-from source --each
text_has "means of the sources" "change of prob from base"

# What --explain says of a sweep, of a steering and of a table
run $P --explain --ablate 'heads' --each
text_has "--explain of a sweep" "swept   9 cells recompute"
run $P --explain --steer L1.resid_pre=2 --direction random:4
text_has "--explain of a steering" "  --direction random:4"
printf 'prompt\tS\n%s\tA\n%sBA\tB#2\n' "ABC" "AB" > "$work/table.tsv"
run --data "$work/table.tsv" --explain --ablate L1H1@S
text_has "--explain of a table" "2 rows"
text_has "--explain of a table" "L1.z blocks.1.attn.hook_z          0          0"
rm -f "$work/table.tsv"

# A run that does not fit in memory says how much it needs, and what to do
if (ulimit -v 400000 && "$mi" --version) > /dev/null 2>&1; then
    (ulimit -v 400000; "$mi" ABCABDABCABDABCABDABCABD --noise embed=1 --samples 10000) > "$dir/out" 2> "$dir/err"
    status=$?
    decent 1
    case $why$first in *"fewer samples"*) ok ;; *) bad "a run that does not fit" "$why$first" ;; esac
fi

# A direction that is zero in one cell changes nothing there; cells without effect are not strongest
run $P --steer 'L*.resid_pre@4-5=2' --toward AB --away CB --each
text_has "a sweep with a zero direction" "strongest L"
if grep strongest "$dir/out" | grep -q "L0 "; then bad "the strongest cells" "have one of 0"; else ok; fi
json ".tables.cells.values[0][0] $base" $P --answer A --versus B --steer 'L*.resid_pre@-1=2' --toward AB --away CB --each
holds "a zero direction in a cell" '$1 == $2'
refuses 1 "the direction at L0.resid_pre is zero" $P --steer L0.resid_pre=2 --toward AB --away CB

# ---- --help has every option; so has the parser
for flag in model tokenizer tokens bos source source-tokens answer versus at threads ablate patch freeze \
    knockout scale noise steer project set toward away direction align samples seed top metric lens attn \
    loss generate temp top-p save json tsv svg color explain sites help version; do
    if has $flag; then ok; else bad "--help" "does not list --$flag"; fi
done
for letter in -m, -k, -n, -h,; do
    if grep -q -e "$letter --" "$dir/help"; then ok; else bad "--help" "does not list $letter"; fi
done
run -h
value=$status$(cmp "$dir/help" "$dir/out"); is "-h" 0
run --help foo --ablate L0H0
value=$status$(cmp "$dir/help" "$dir/out"); is "--help with other words" 0
if awk 'length > 100 { exit 1 }' "$dir/help"; then ok; else bad "--help" "has lines of more than 100 columns"; fi

# ---- With words, and so with tiny

unset MI_MODEL
run -k 1
if [ $status -ne 0 ]; then
    bad "mi without arguments" "exit status $status: $(cat "$dir/err")"
    echo "$passed passed, $failed failed"
    exit 1
fi
W="When Mary and John went to the store, John gave a drink to"
numbers "$W" --answer " Mary" --versus " John" --ablate L5H3; keep
numbers --ablate L5H3; equal "the built-in prompt and its answers"
MI_MODEL= numbers --ablate L5H3; equal "an empty \$MI_MODEL"
ln -s "$mi" "$dir/link"
for way in 'cd / && exec "$mi"' 'cd "$work" && exec "$dir/link"' 'cd / && PATH=$(dirname "$mi"):$PATH && exec mi'; do
    (eval "$way"' --json -k 3 --ablate L5H3') > "$dir/out" 2> "$dir/err" < /dev/null
    value=$(awk -f tests/json.awk "$dir/out")
    equal "tiny beside the program: $way"
done
position 1 1 "$W" 'L5H3@" Mary"'
position 1 1 "$W" L5H3@Mary
position 9 9 "$W" L5H3@John#2
position 3 3 "$W" 'L5H3@" John"#1'
position 1 3 "$W" 'L5H3@" Mary and John"=mean'
position 8 9 "$W" 'L5H3@", John"'
position 0 0 "$W" L5H3@When
caret 5 "#1 at 3 #2 at 9" "$W" --ablate L5H3@John
caret 6 "" "$W" --ablate 'L5H3@"Mary"'
caret 6 "" "$W" --ablate 'L5H3@" Joh"'
caret 6 "2 times" "$W" --ablate 'L5H3@" John"'
caret 18 "layer 9" "$W" --ablate 'L5H3@" Mary and",L9H0'
caret 10 "layer 9" "é Mary" --ablate 'L5H3@"é",L9H0'
caret 13 "layer 9" "déjà vu" --ablate 'L5H3@"déjà",L9H0'
caret 5 "" "$W" --ablate L5H3@zebra
hint=$(sed -n 's/.*mi PROMPT \(.*\) shows the tokens.*/\1/p' "$dir/err")
if [ -n "$hint" ]; then
    run "$W" $hint
    if grep -q Mary "$dir/out" && ! grep -q "When Mary and" "$dir/out"; then ok
    else bad "mi PROMPT $hint" "does not show where tokens begin, though a message says so"
    fi
fi
json ".edits[0].pos[0] .prompt.tokens[0].id .prompt.tokens[2].text" --bos "$W" --ablate L5H3@Mary
is "--bos shifts positions" '2 50256 " Mary"'
json ".prompt.answer[0].id .prompt.answer[0].text" "$W" --answer gave
is "a space is put before an answer" "$(json ".prompt.answer[0].id" "$W" --answer ' gave'; echo "$value") \" gave\""
run "$W" --answer gave
text_has "an answer with a space put before it" "only so is it one token"
run "$W" --answer Mary
text_has "an answer without its space" "after a word it is \" Mary\""
run "$W "
text_has "a prompt that ends with a space" "ends with a space"
run "$W"
if grep -q "note" "$dir/out"; then bad "a plain prompt" "gets a note"; else ok; fi
json ".prompt.answer[0].id .prompt.answer[1].id .prompt.answer[66].text .prompt.answer[67].id" \
    "The war lasted from the year 1732 to the year 17" --answer 33-99 --versus 00-32
is "--answer 33-99" '2091 2682 "99" -'
json "$base" "$W" --answer " Mary| John"; keep
json "$base" "$W" --answer " Mary"; kept="$kept $value"
json "$base" "$W" --answer " John"; value="$kept $value"
holds "probabilities of several answers" 'near($1, $2 + $3)'
for range in 3-9 99-33 33-100 -3-99 +3-99 "33-99 " " 33-99" "33 -99"; do
    refuses 2 "--answer" "$W" --answer "$range"
done
refuses 2 "|" "$W" --answer "zebra crossing"
refuses 2 "--answer" "$W" --answer " Mary|"
refuses 2 "the prompt 14" "$W" --patch L0H0 --source "When Mary"
case $second in *"When|·Mary|·and|"*) ok ;; *) bad "a shorter source" "shows \"$second\"" ;; esac
case $third in *"When|·Mary") ok ;; *) bad "a shorter source" "shows \"$third\"" ;; esac
numbers "$W" --patch L5H3 --source "When John and Mary went to the store, Mary gave a drink to"
holds "a source with as many tokens" 'NF > 0'
run "$W" --steer "L3.resid_pre=2" --toward " love" --away " I hate this" --align front
value=$status; is "--align front pads the shorter text" 0
json ".prompt.tokens[1].text .prompt.tokens[2].text" "$(printf 'A\377B')"
is "a broken byte in --json" "\"$(printf '\357\277\275')\" \"B\""
json ".prompt.tokens[1].text" "$(printf 'A\033')"
is "a control character in --json" '"\u001b"'
numbers "$(printf 'A\nB')"; keep
piped 'A\nB\n' -; equal "a newline inside standard input"
piped 'A\nB\n\n' -; differ "only the last newline of standard input is dropped"
piped 'A\000B' -; case $value in *'.text="\u0000"'*) ok ;; *) bad "a zero byte in standard input" "is lost" ;; esac

for label in "escape codes" "C1 controls" "broken UTF-8"; do
    case $label in
    escape*) evil=$(printf 'A\033[2J\r\b\007\177x') ;;
    C1*) evil=$(printf 'A\302\2332J\302\205x') ;;
    broken*) evil=$(printf 'A\2332J\377\300\200\355\240\200x\342\202') ;;
    esac
    hostile "$evil"
    hostile "$evil" -k 0 --lens
    hostile "$evil" --attn L5H3@-1 --loss
    hostile "$evil" --tsv -k 3 --attn L5H3@-1 --lens
    hostile "$evil" --explain --ablate "L5H3@\"$evil\""
    hostile "$evil" --ablate "L5H3@\"$evil\"" --scale heads@A=2
    hostile "$evil" --json -n 3
    hostile "$evil" -n 3
    hostile "$evil" --patch L5H3 --source same
    hostile "$evil" --patch L5H3 --source "$evil B"
    hostile "$evil" --at x --answer x
    hostile "$evil" --answer "$(printf '\033|\233')"
    hostile "$evil" --answer "$evil"
    hostile "$evil" --steer L3.resid_pre=1 --toward "$evil"
    [ "$label" != "escape codes" ] || hostile "$evil" --attn L5H3 --answer "$(printf '\033')" --svg "$work/x.svg"
    why=$( [ ! -e "$work/x.svg" ] || clean "$work/x.svg")
    if [ -z "$why" ]; then ok; else bad "--svg with $label" "has $why"; fi
    rm -f "$work/x.svg"
done
label="random bytes"
hostile "The" -n 60 --temp 20 --seed 1
hostile "The" -n 60 --temp 20 --seed 2 --ablate L5H3

# The examples of --help, the README and the walkthrough, as they stand there, over the first rows of
# their tables; what other programs then do with the output is not ours.
mkdir "$work/examples" "$work/examples/tests"
ln -s "$PWD/wild.safetensors" "$work/examples"
ln -s "$PWD"/tests/* "$work/examples/tests"
rm "$work/examples/tests/data"
mkdir "$work/examples/tests/data"
for file in tests/data/*; do
    case $file in
    *.tsv) head -n 33 "$file" > "$work/examples/$file" ;;
    *) ln -s "$PWD/$file" "$work/examples/tests/data" ;;
    esac
done
sed -n 's/^    mi \([^[].*\)$/\1/p' "$dir/help" > "$dir/examples"
value=$(($(wc -l < "$dir/examples")))
holds "--help has examples" '$1 >= 5'
sed -n 's/^ *\(\$ \)\{0,1\}\.\/mi \(.*\)$/\2/p' README.md walkthrough.md |
    sed 's/ | .*//; s/ >.*//' | grep -v -e gpt2 -e '<' -e '\$(' >> "$dir/examples"
while IFS= read -r example; do
    (cd "$work/examples" && eval "\"\$mi\" $example") > "$dir/out" 2> "$dir/err" < /dev/null
    status=$?
    if [ $status -eq 0 ] && [ -s "$dir/out" ] && [ ! -s "$dir/err" ]; then ok
    else bad "the example mi $example" "exit status $status: $(cat "$dir/err")"
    fi
done < "$dir/examples"

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
