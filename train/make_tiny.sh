#!/bin/sh
# Make tiny.safetensors and tests/data/*.tsv again:   train/make_tiny.sh BPE_FOLDER [WORK_FOLDER]
# BPE_FOLDER holds GPT-2's encoder.json and vocab.bpe. See README.md beside this file.
set -e
here=$(cd "$(dirname "$0")" && pwd)
bpe=${1:?usage: make_tiny.sh BPE_FOLDER [WORK_FOLDER]}
work=${2:-$(mktemp -d)}
tiny=$here/../tiny.safetensors

python3 "$here/train.py" "$bpe" "$work/tiny.pt"
python3 "$here/convert.py" "$work/tiny.pt" "$tiny"
python3 "$here/check_hf.py" "$tiny" "$bpe"
python3 "$here/prompts.py" "$bpe" "$here/../tests/data"
python3 "$here/evaluate.py" "$tiny" "$bpe"
