#!/bin/sh
# test_files.sh - what ./mi does with broken model files: exit status 1, one line on stderr that
# names the file, and nothing on stdout. Run it from the repository root, after make.
#
# The model is written here: printf for numbers, zeros from dd for weights (all logits are 0).

. tests/scratch.sh
ulimit -t 60 2>/dev/null

# ---- A small GPT-2: 2 layers, 2 heads, 4 dimensions, 8 positions, the bytes and the end of text

little_endian() {                   # NUMBER BYTES
    rest=$1 left=$2
    while [ "$left" -gt 0 ]; do
        printf "\\$(printf %03o $((rest % 256)))"
        rest=$((rest / 256)) left=$((left - 1))
    done
}

zeros() {                           # BYTES
    [ "$1" -eq 0 ] || dd if=/dev/zero bs="$1" count=1 2>/dev/null
}

tensor() {                          # NAME SHAPE BYTES [DTYPE]: an entry of the header
    begin=$size size=$((size + $3))
    header="$header,\"$1\":{\"dtype\":\"${4:-F32}\",\"shape\":[$2]"
    header="$header,\"data_offsets\":[$begin,$size]}"
}

describe() {                        # LAYER...: header and size of a model with these layers
    header='{"__metadata__":{"n_head":"2"}' size=0
    tensor vocab_ids 257 1028 I32
    tensor wte.weight 257,4 4112
    tensor wpe.weight 8,4 128
    for layer; do
        tensor "h.$layer.ln_1.weight" 4 16
        tensor "h.$layer.ln_1.bias" 4 16
        tensor "h.$layer.attn.c_attn.weight" 4,12 192
        tensor "h.$layer.attn.c_attn.bias" 12 48
        tensor "h.$layer.attn.c_proj.weight" 4,4 64
        tensor "h.$layer.attn.c_proj.bias" 4 16
        tensor "h.$layer.ln_2.weight" 4 16
        tensor "h.$layer.ln_2.bias" 4 16
        tensor "h.$layer.mlp.c_fc.weight" 4,16 256
        tensor "h.$layer.mlp.c_fc.bias" 16 64
        tensor "h.$layer.mlp.c_proj.weight" 16,4 256
        tensor "h.$layer.mlp.c_proj.bias" 4 16
    done
    tensor ln_f.weight 4 16
    tensor ln_f.bias 4 16
    header="$header}"
}

describe 0 1
{
    id=0
    while [ $id -lt 256 ]; do
        little_endian $id 4
        id=$((id + 1))
    done
    little_endian 50256 4
    zeros $((size - 1028))
} > "$dir/data"

write() {                           # FILE HEADER [LENGTH THAT IT CLAIMS]
    {
        little_endian "${3:-$(printf %s "$2" | wc -c)}" 8
        printf %s "$2"
        cat "$dir/data"
    } > "$1"
}

edited() {                          # SED-SCRIPT: the header after it
    new=$(printf '%s\n' "$header" | sed "$1")
    [ "$new" != "$header" ] || echo "FAIL test_files: sed $1 changes nothing" >&2
    printf %s "$new"
}

# ---- What must happen

run() {
    "$mi" "$@" > "$dir/out" 2> "$dir/err" < /dev/null
    status=$?
}

works() {                           # NAME: the model in $dir/model loads and predicts
    run -m "$dir/model" "Hello"
    if [ $status -ne 0 ]; then bad "$1" "status $status, $(cat "$dir/err")"
    elif [ ! -s "$dir/out" ]; then bad "$1" "prints nothing"
    else ok
    fi
}

refuses() {                         # NAME FILE ARGUMENT...: run has this file at fault
    name=$1 at_fault=$2
    shift 2
    run "$@"
    if [ $status -ne 1 ]; then bad "$name" "exit status $status, not 1"
    elif [ -s "$dir/out" ]; then bad "$name" "prints to stdout: $(head -n 1 "$dir/out")"
    elif [ "$(wc -l < "$dir/err")" -ne 1 ]; then
        bad "$name" "$(($(wc -l < "$dir/err"))) lines on stderr: $(head -n 3 "$dir/err")"
    elif [ "$(tail -c 1 "$dir/err" | od -An -tx1 | tr -d ' ')" != 0a ]; then
        bad "$name" "the message does not end its line"
    else
        case $(cat "$dir/err") in
        *"$at_fault"*) ok ;;
        *) bad "$name" "the message does not name $at_fault: $(cat "$dir/err")" ;;
        esac
    fi
}

broken() { refuses "$1" "$dir/model" -m "$dir/model" "Hello"; }     # NAME: $dir/model is at fault

bent() {                            # NAME SED-SCRIPT: $dir/model with its header edited
    write "$dir/model" "$(edited "$2")"
    broken "$1"
}

cut_at() {                          # BYTES NAME
    dd if="$dir/whole" of="$dir/model" bs="$1" count=1 2>/dev/null
    broken "$2"
}

# ---- Files that are right

write "$dir/whole" "$header"
cp "$dir/whole" "$dir/model"
works "a plain model"
for blanks in " " "  " "   " "    "; do
    write "$dir/model" "$header$blanks"
    works "a header with ${#blanks} spaces after it"
done
prefix='s/"h\./"transformer.h./g; s/"w/"transformer.w/g; s/"ln_f/"transformer.ln_f/g'
write "$dir/model" "$(edited "$prefix")"
works "names with transformer."
write "$dir/model" "$(edited 's/{"n_head"/{"\\u00e9\\n\\"}":"\\ud83d\\ude00","n_head"/')"
works "metadata with escapes"
mask='"h.0.attn.bias":{"dtype":"BOOL","shape":[0],"data_offsets":[0,0]}'
write "$dir/model" "$(edited "s/^{/{$mask,/")"
works "an unknown tensor"
write "$dir/model" "$(edited 's/"n_head":"2"//')"
echo '{"n_layer": 2, "n_head": 4}' > "$dir/config.json"
works "n_head in config.json"
echo '{"n_layer": 2, "n_head": 3}' > "$dir/config.json"
broken "n_head 3 in config.json"
rm "$dir/config.json"

# ---- Paths

refuses "a missing file" "$dir/none" -m "$dir/none" "Hello"
refuses "a missing directory" "$dir/none/model" -m "$dir/none/model" "Hello"
refuses "a directory" "$dir" -m "$dir" "Hello"
refuses "/dev/null" /dev/null -m /dev/null "Hello"
refuses "a text file" mi.h -m mi.h "Hello"
refuses "tokenizer.bin as model" tokenizer.bin -m tokenizer.bin "Hello"
: > "$dir/model"
broken "an empty file"
cp "$dir/whole" "$dir/model"
chmod 0 "$dir/model"
if [ -r "$dir/model" ]; then ok; else broken "a file that may not be read"; fi     # root may
chmod 644 "$dir/model"
refuses "a missing tokenizer" "$dir/none" -m "$dir/model" --tokenizer "$dir/none" "Hello"
refuses "a model as tokenizer" "$dir/model" -m "$dir/model" --tokenizer "$dir/model" "Hello"
MI_MODEL=$dir/none
export MI_MODEL
refuses "a missing file in \$MI_MODEL" "$dir/none" "Hello"
unset MI_MODEL

# ---- Files that are cut

n=${#header}
cut_at 1 "a file of 1 byte"
cut_at 7 "a file cut inside the header's length"
cut_at 8 "a file cut after the header's length"
cut_at 9 "a file cut after {"
cut_at $((8 + n / 2)) "a file cut inside the header"
cut_at $((8 + n - 1)) "a file without the header's last character"
cut_at $((8 + n)) "a file without data"
cut_at $((8 + n + 500)) "a file cut inside vocab_ids"
cut_at $((8 + n + 1028 + 2000)) "a file cut inside wte.weight"
cut_at $((8 + n + 1028 + 4112 + 128 + 100)) "a file cut inside layer 0"
cut_at $((8 + n + size - 1)) "a file without its last byte"

# ---- Headers that are no JSON, or the wrong length

write "$dir/model" "$header" 0
broken "a header length of 0"
write "$dir/model" "$header" $((n - 1))
broken "a header length of one less"
write "$dir/model" "$header" $((n + 1))
broken "a header length of one more"
write "$dir/model" "$header" $((n + size))
broken "a header length of the whole file"
write "$dir/model" "$header" 1000000000
broken "a header length larger than the file"
{ printf '\377\377\377\377\377\377\377\377%s' "$header"; cat "$dir/data"; } > "$dir/model"
broken "a header length of -1"
{ printf '\000\000\000\000\000\000\000\200%s' "$header"; cat "$dir/data"; } > "$dir/model"
broken "a header length of 2^63"
deep='[[[[[[[[[[[[[[[['
for times in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do deep=$deep$deep; done
write "$dir/model" "$deep"
broken "1,048,576 ["
write "$dir/model" "{\"x\":{\"y\":$deep"
broken "1,048,576 [ in a tensor"
write "$dir/model" "{\"$deep"
broken "a string without end"
bent "no closing }" 's/}$//'
bent "garbage after the header" 's/$/x/'
bent "two headers" 's/$/{}/'
bent "a comma too many" 's/}$/,}/'
bent "an invalid escape" 's/{"n_head"/{"\\q":"","n_head"/'
bent "metadata that is a number" 's/"n_head":"2"/"n_head":2/'

# ---- Headers that lie

bent "dtype I64" '/wpe/s/"wpe.weight":{"dtype":"F32"/"wpe.weight":{"dtype":"I64"/'
bent "dtype F64" 's/"ln_f.bias":{"dtype":"F32"/"ln_f.bias":{"dtype":"F64"/'
bent "no dtype" 's/"ln_f.bias":{"dtype":"F32",/"ln_f.bias":{/'
bent "a negative offset" 's/\[0,1028\]/[-1028,0]/'
bent "an offset of 1.5" 's/\[0,1028\]/[0,1.5]/'
bent "an offset of 1e999" 's/\[0,1028\]/[0,1e999]/'
bent "an offset of 2^63" 's/\[0,1028\]/[0,9223372036854775808]/'
bent "offsets of 2^64" 's/\[0,1028\]/[18446744073709551616,18446744073709552644]/'
bent "offsets in reverse" 's/\[0,1028\]/[1028,0]/'
bent "an offset that cuts an element" 's/\[0,1028\]/[0,1027]/'
bent "tensors that overlap" 's/\[1028,5140\]/[1024,5136]/'
bent "tensors of the same bytes" 's/\[5284,5300\]/[5268,5284]/'
bent "a tensor beyond the end" "s/$((size - 16)),$size/$((size - 12)),$((size + 4))/"
bent "a shape larger than its bytes" 's/\[257,4\]/[258,4]/'
bent "a shape of 2^64 elements" 's/\[8,4\]/[4294967296,4294967296]/'
bent "a shape that is transposed" 's/\[4,12\]/[12,4]/'
bent "a shape of another rank" 's/\[4,16\]/[4,4,4]/'
bent "no positions" 's/\[8,4\],"data_offsets":\[5140,5268\]/[0,4],"data_offsets":[5140,5140]/'
bent "a missing wte" 's/wte.weight/wxe.weight/'
bent "a missing bias" 's/h.1.mlp.c_fc.bias/h.1.mlp.c_fc.bios/'
bent "a tensor twice" 's/"h.1.ln_2.bias"/"h.1.ln_1.bias"/'
bent "a line feed in a name" 's/"wpe.weight\(":{"dtype":"F32","shape":\)\[8/"x\\ny\1[9/'
bent "no layers" 's/"h\./"g./g'
describe 0 2
write "$dir/model" "$header"
broken "layers 0 and 2"
describe 0 1
for heads in 0 -2 3 4x "" 99999999999999999999; do
    bent "n_head '$heads'" "s/\"n_head\":\"2\"/\"n_head\":\"$heads\"/"
done
bent "no n_head and 4 dimensions" 's/"n_head":"2"//'

# ---- vocab_ids: the last id, the end of text, becomes another

for id in 255 256 50257 2147483647; do
    { little_endian "$n" 8; printf %s "$header"
      dd if="$dir/data" bs=1024 count=1 2>/dev/null; little_endian $id 4
      zeros $((size - 1028)); } > "$dir/model"
    broken "vocab_ids that end with $id"
done
{ little_endian "$n" 8; printf %s "$header"; zeros $size; } > "$dir/model"
broken "vocab_ids that are all 0"

# Without stdin, the model is descriptor 0.
if "$mi" --top 1 "The" <&- > "$dir/out" 2>&1; then ok; else bad "no stdin" "$(cat "$dir/out")"; fi

# A model that becomes shorter while it is mapped: one line, no crash. /proc says when it is mapped.
if [ -r /proc/self/maps ] && mkfifo "$dir/late" 2>/dev/null; then
    cp tiny.safetensors "$dir/shrinks"
    "$mi" -m "$dir/shrinks" - < "$dir/late" > "$dir/out" 2> "$dir/err" &
    process=$! tries=0
    exec 3> "$dir/late"
    until grep -q "$dir/shrinks" /proc/$process/maps 2>/dev/null || [ $tries -ge 100 ]; do
        sleep 0.1
        tries=$((tries + 1))
    done
    : > "$dir/shrinks"
    echo "When Mary and John went to" >&3
    exec 3>&-
    wait $process
    status=$?
    if [ $status -eq 1 ] && [ ! -s "$dir/out" ] &&
       [ "$(cat "$dir/err")" = "mi: a file became shorter while it was read" ]; then ok; else
        bad "a model that shrinks" "status $status: $(head -n 3 "$dir/err")"; fi
fi

# ---- The same with other options

bent "a missing wpe" 's/wpe/wqe/'
refuses "a broken model with --json" "$dir/model" -m "$dir/model" --json "Hello"
refuses "a broken model with --ablate" "$dir/model" -m "$dir/model" --ablate L0H0 "Hello"
refuses "a broken model with -n" "$dir/model" -m "$dir/model" -n 3 "Hello"
refuses "a broken model with --explain" "$dir/model" -m "$dir/model" --explain --ablate L0H0 "Hello"
refuses "a broken model without prompt" "$dir/model" -m "$dir/model"
case $("$mi" --help) in
*--save*)
    refuses "a broken model with --save" "$dir/model" -m "$dir/model" \
        --save "L0.resid_pre=$dir/saved.npy" "Hello"
    if [ -e "$dir/saved.npy" ]; then bad "--save" "leaves a file after failing"; else ok; fi
esac

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
