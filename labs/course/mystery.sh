#!/bin/sh
# mystery.sh PERMUTE FOLDER STUDENT - a folder with a sound model and one of which a part is damaged;
# prints which part, for the teacher alone.
set -e
[ -n "$3" ] || { echo "make mystery STUDENT=42: which student's?" >&2; exit 1; }
[ ! -e "$2" ] || { echo "$2 is there already: move it away first" >&2; exit 1; }
mkdir "$2"
"$1" model tiny.safetensors "$3" "$2/tiny.safetensors"
answer=$("$1" mystery tiny.safetensors "$3" "$2/mystery.safetensors")
cp tokenizer.bin "$2"
cat > "$2/MYSTERY.md" <<'EOF'
# A mystery

Two models: `tiny.safetensors` is sound; `mystery.safetensors` is the same but for one part, which has been made to write
nothing: one head (an address like L3H1), or a group of neighbouring neurons of one layer (like L3N64-127).

Which? Write down the address, and the commands that led you there. Begin with what the two say of a few prompts:

    ./mi -m tiny.safetensors "The keys to the cabinet"
    ./mi -m mystery.safetensors "The keys to the cabinet"

A good answer is one that you could not improve: with that part ablated, the sound model gives the mystery's numbers, to the
last bit. A better one says in addition what the part was for: on which of the lists of prompts is it missed, and on which
not? Thinking before searching pays: which site is the lowest that differs, and why must nothing below it?
EOF
echo "$2: the answer: $answer"
