#!/bin/sh
# Make wild.safetensors again:   train/make_wild.sh BPE_FOLDER [WORK_FOLDER]
# The text and the vocabulary are tiny's, and so are the prompts that ask. See README.md beside this file.
set -e
here=$(cd "$(dirname "$0")" && pwd)
bpe=${1:?usage: make_wild.sh BPE_FOLDER [WORK_FOLDER]}
work=${2:-$(mktemp -d)}
wild=$here/../wild.safetensors

python3 "$here/train.py" "$bpe" "$work/wild.pt" --wild
python3 "$here/convert.py" "$work/wild.pt" "$wild"
python3 "$here/check_hf.py" "$wild" "$bpe"
python3 "$here/evaluate.py" "$wild" "$bpe"
