#!/bin/sh
# test_labs.sh - each program of labs/ prints on tiny what tests/golden/labs/ has, and the same numbers
# as $MI (./mi), which has its own tests against TransformerLens. Run it from the repository root.
#     sh tests/test_labs.sh --update           writes tests/golden/labs/, after you have looked at it

. tests/scratch.sh
labs=$(dirname "$mi")/labs
golden=tests/golden/labs
update=${1:-no}
S="When Mary and John went to the store, Mary gave a drink to"

# Two tables of numbers: may a number differ in its last digit? Where the processor has no FMA.
near() {
    awk -v by="${MI_TEST_NEAR:+.011}" '
        FNR == NR { line[FNR] = $0; n = FNR; next }
        { split(line[FNR], a); for (i = 1; i <= NF || i in a; i++) {
              x = a[i]; y = $i; if (x == "·") x = 0; if (y == "·") y = 0
              if (x != y && !(by && (x - y) ^ 2 <= by ^ 2)) exit bad = 1 } }
        END { exit bad || FNR != n }' "$1" "$2"
}

"$mi" --source "$S" --attribute edges --steps 5 --json > "$dir/scores.json" 2> "$dir/err" || cat "$dir/err"
for lab in "$labs"/*; do
    name=$(basename "$lab")
    [ -x "$lab" ] && [ -e "labs/$name.c" ] || continue
    case $name in
    edges) set -- tiny.safetensors "$dir/scores.json" ;;
    *) set -- ;;
    esac
    if ! "$lab" "$@" > "$dir/$name" 2> "$dir/err"; then bad "labs/$name" "$(head -n 1 "$dir/err")"
    elif [ $update = --update ]; then cp "$dir/$name" $golden/
    elif near $golden/$name "$dir/$name"; then ok
    else bad "labs/$name" "prints something else: $(diff $golden/$name "$dir/$name" | head -n 4)"; fi
done
[ $update = --update ] && exit

# NAME TABLE UNIT ARGUMENT...: the lab's map is mi's table, times UNIT
agrees() {
    name=$1 table=$2 unit=$3
    shift 3
    "$mi" "$@" --tsv 2> "$dir/err" | awk -F'\t' -v table=$table -v unit="$unit" '$1 == table {
        v = $5 * unit; print v ^ 2 < .005 ^ 2 ? 0 : sprintf("%+.2f", v) }' > "$dir/mi"
    grep '^  L[0-9] ' "$dir/$name" | awk '{ for (i = 2; i <= NF; i++) print $i == "·" ? 0 : $i }' > "$dir/lab"
    if [ -s "$dir/mi" ] && MI_TEST_NEAR=1 near "$dir/mi" "$dir/lab"; then ok
    else bad "labs, $name" "it and ./mi $* do not agree: $(diff "$dir/mi" "$dir/lab" | head -n 4)"; fi
}
agrees ablate change 1 --ablate heads --each
agrees patch change 1 --source "$S" --patch 'L*.resid_pre@*' --each
sed -n '/into L5H3/,$p' "$dir/path" > "$dir/L5H3"
agrees L5H3 path -28.0143 --source "$S" --path 'L0-4H*' --into L5H3.q   # of source - base

"$mi" --dla --tsv | awk -F'\t' '$1 == "dla" && $4 == "base" && $3 ~ /^L|embed/ && $5 ^ 2 >= .005 ^ 2 {
    printf "  %-12s %+8.3f\n", $3, $5 }' > "$dir/mi"
grep -E '^  (L|embed)' "$dir/dla" > "$dir/lab"
if [ -s "$dir/mi" ] && MI_TEST_NEAR=1 near "$dir/mi" "$dir/lab"; then ok
else bad "labs/dla" "it and ./mi --dla do not agree: $(diff "$dir/mi" "$dir/lab" | head -n 4)"; fi

# What sae_files.h does not understand: SAYING SED-SCRIPT, of labs/sae/cfg.json
mkdir "$dir/bad"
said() {                            # SAYING WHAT: one line, and nothing else
    "$labs/sae" tiny.safetensors "$dir/bad" > "$dir/out" 2> "$dir/err"
    status=$?
    if [ $status = 1 ] && [ ! -s "$dir/out" ] && [ "$(wc -l < "$dir/err")" -eq 1 ] && grep -qF -e "$1" "$dir/err"; then ok
    else bad "labs/sae, $2" "status $status, does not say \"$1\" but: $(head -n 2 "$dir/err")"; fi
}
cfg() {
    sed "$2" labs/sae/cfg.json > "$dir/bad/cfg.json"
    cp labs/sae/sae_weights.safetensors "$dir/bad"
    if cmp -s labs/sae/cfg.json "$dir/bad/cfg.json"; then bad "labs/sae" "$2 changes nothing"; else said "$1" "$2"; fi
}
cfg "extra is not understood" 's/{/{"extra": 1, /'
cfg "k2?[0m is not understood" 's/{/{"k2\\u001b[0m": 1, /'
cfg "temperature is not understood" 's/"model_from_pretrained_kwargs": {/&"temperature": 1/'
cfg "architecture is transcoder" 's/"architecture": "jumprelu"/"architecture": "transcoder"/'
cfg "architecture is missing" 's/"architecture": "jumprelu"/"verbose": 1/'
cfg "normalize_activations is covariance_whitening" 's/"normalize_activations": "none"/"normalize_activations": "covariance_whitening"/'
cfg "needs norm_scaling_factor" 's/"normalize_activations": "none"/"normalize_activations": "expected_average_only_in"/'
cfg "dtype is float64" 's/float32/float64/'
cfg "activation_fn_str is tanh-relu" 's/{/{"activation_fn_str": "tanh-relu", /'
cfg "topk of another architecture" 's/{/{"activation_fn_str": "topk", "k": 3, /'
cfg "finetuning_scaling_factor is true" 's/{/{"finetuning_scaling_factor": true, /'
cfg "apply_b_dec_to_input is false; what" 's/"apply_b_dec_to_input": true/"apply_b_dec_to_input": "false"/'
cfg "seqpos_slice leaves positions out" 's/{/{"seqpos_slice": [1, null], /'
cfg "hook_name_out is blocks.4" 's/"hook_head_index"/"hook_name_out": "blocks.4.hook_mlp_out", &/'
cfg "reshape_activations hook_z of blocks.3.hook_resid_pre" 's/"reshape_activations": "none"/"reshape_activations": "hook_z"/'
cfg "hook_name blocks.6.hook_resid_pre" 's/blocks.3/blocks.6/'
cfg "hook_name L3.resid_pre" 's/blocks.3.hook_resid_pre/L3.resid_pre/'
cfg "hook_name blocks.3.attn.hook_q" 's/blocks.3.hook_resid_pre/blocks.3.attn.hook_q/'
cfg "has no head 1" 's/"hook_head_index": null/"hook_head_index": 1/'
cfg "d_in is 64; blocks" 's/"d_in": 128/"d_in": 64/'
cfg "W_dec should be [255,128]" 's/"d_sae": 256/"d_sae": 255/'
cfg "d_sae is 1.5" 's/"d_sae": 256/"d_sae": 1.5/'
cfg "d_sae is 1e+30" 's/"d_sae": 256/"d_sae": 1e30/'
cfg "hook_name is missing" 's/"hook_name"/"hook_eval"/'
cfg "says prepend_bos twice" 's/{/{"prepend_bos": false, /'
cfg "tensor threshold is not understood" 's/"architecture": "jumprelu"/"architecture": "standard"/'
cfg "tensor b_enc is not understood" 's/"architecture": "jumprelu"/"architecture": "gated"/'
cfg "topk, and k is 0" 's/"architecture": "jumprelu"/"architecture": "topk"/'
cfg "malformed" 's/}$//'
cfg "whether the stream was centred" 's/.*/{"hook_point":"blocks.3.hook_resid_pre","d_in":128,"d_sae":256}/'
cp labs/sae/cfg.json "$dir/bad"
head -c 1000 labs/sae/sae_weights.safetensors > "$dir/bad/sae_weights.safetensors"
said truncated "a truncated file"
sed 's/"F16"/"I16"/' labs/sae/sae_weights.safetensors > "$dir/bad/sae_weights.safetensors"
said "is of type I16" "another type"
sed 's/"b_dec"/"b_dex"/' labs/sae/sae_weights.safetensors > "$dir/bad/sae_weights.safetensors"
said "b_dex is not understood" "another tensor"
head -c 130000 labs/sae/sae_weights.safetensors > "$dir/bad/sae_weights.safetensors"
tail -c +130001 labs/sae/sae_weights.safetensors | tr '\000-\377' '\377' >> "$dir/bad/sae_weights.safetensors"
said "is not all numbers" "not a number"
rm "$dir/bad/sae_weights.safetensors"
said "No such file" "no weights"
"$labs/sae" tiny.safetensors labs/sae "When Mary" "When" " Mary" " John" 1 > "$dir/out" 2> "$dir/err"
if [ $? = 2 ] && grep -q "no position 1" "$dir/err"; then ok; else bad "labs/sae" "a position that one prompt has not"; fi
"$labs/sae" tiny.safetensors labs/sae "When Mary" "When Mary" " Mary" " John" 1 /dev/null > "$dir/out" 2> "$dir/err"
if [ $? = 2 ] && grep -q "no text of two tokens" "$dir/err"; then ok; else bad "labs/sae" "no text"; fi

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
