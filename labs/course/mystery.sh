#!/bin/sh
# mystery.sh PERMUTE FOLDER STUDENT - a folder with a sound model and one of which a part is damaged;
# prints which part, for the teacher alone.
set -e
[ -n "$3" ] || { echo "make mystery STUDENT=42: which student's?" >&2; exit 1; }
[ ! -e "$2" ] || { echo "$2 is there already: move it away first" >&2; exit 1; }
new=$2.new
rm -rf "$new"
trap 'rm -rf "$new"' EXIT
mkdir -p "$new/data"
"$1" model tiny.safetensors "$3" "$new/tiny.safetensors"
answer=$("$1" mystery tiny.safetensors "$3" "$new/mystery.safetensors" tests/data/facts.tsv)
cp tokenizer.bin "$new"
cp tests/data/*.tsv "$new/data"
cat > "$new/MYSTERY.md" <<'EOF'
# A mystery

Two models: `tiny.safetensors` is sound; `mystery.safetensors` is the same but for one part. Either that part has been made to
write nothing: one head (an address like L3H1), or a group of neighbouring neurons of one layer (like L3N64-127). Or one fact
is another: of a row of `data/facts.tsv` the model now says `versus`, since at one token an MLP writes what belongs to another
subject (the answer is an address like L1.mlp_out@2, and the prompt).

Which? Write down the address, and the commands that led you there. Begin with what the two say of a few prompts:

    ./mi -m tiny.safetensors "The keys to the cabinet"
    ./mi -m mystery.safetensors "The keys to the cabinet"

and of the lists of prompts, row by row (`--data data/facts.tsv --tsv`).

A good answer is one that you could not improve. With the head or the neurons ablated, the sound model gives the mystery's
numbers, to the last bit. With the MLP's output set to what the sound model has there (`--save` it, then `--set`), the mystery
gives the right fact; and patched from the prompt of the other subject, the sound model gives the wrong one. A better answer
says in addition what the part was for: on which of the lists of prompts is it missed, and on which not? Thinking before
searching pays: which site is the lowest that differs, and why must nothing below it?
EOF
mv "$new" "$2"
echo "$2: the answer: $answer"
