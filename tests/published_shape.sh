#!/bin/sh
# make published, tried on the shape of each comparison: a model of 12 layers of 12 heads with
# GPT-2's vocabulary and random weights must give every figure, and none of the published values.
. tests/scratch.sh
is() { if [ "$value" = "$2" ]; then ok; else bad "$1" "expected $2, got $value"; fi; }

${CC:-cc} -O1 -w -I. -o "$dir/model" tests/published_model.c && "$dir/model" "$dir/random.safetensors" ||
    exit 1
MI=$mi sh tests/published.sh "$dir/random.safetensors" > "$dir/out" 2>&1
value="status $?: $(tail -n 1 "$dir/out")"
is "random weights" "status 1: 0 of 45 figures agree; 0 could not be computed"

# A figure agrees where its numbers are ours.
cp -r tests/published "$dir/published" && cp tests/published.sh "$dir"
sed -i 's/ mean loss" 1e-4 [0-9.]*/ mean loss" 1e-3 16.5195/' "$dir/published.sh"
MI=$mi sh "$dir/published.sh" "$dir/random.safetensors" "Hello" > "$dir/out" 2>&1
value="status $?: $(tail -n 1 "$dir/out")"
is "our own number" "status 0: 1 of 1 figures agree; 0 could not be computed"

MI=$mi sh tests/published.sh "$dir/none.safetensors" > "$dir/out" 2>&1
value="status $?: $(cat "$dir/out")"
is "no model" "status 2: published.sh: no model \"$dir/none.safetensors\": make gpt2"
MI=$mi sh tests/published.sh "$dir/random.safetensors" "no such" > "$dir/out" 2>&1
value="status $?: $(tail -n 1 "$dir/out")"
is "no figure" 'status 2: published.sh: no figure'"'"'s name contains "no such"'

echo "== all"
echo "$passed passed, $failed failed"
