"""Checkpoint -> safetensors under Hugging Face's GPT-2 names: `python convert.py CHECKPOINT OUT.safetensors`."""
import pathlib
import sys

import torch
from safetensors.torch import save_file


def tensors(state, vocab):
    """Hugging Face's names; its linear weights are [in, out]."""
    places = {"c_attn": "attn.c_attn", "c_proj": "attn.c_proj", "c_fc": "mlp.c_fc", "c_out": "mlp.c_proj"}
    out = {"vocab_ids": torch.tensor(vocab, dtype=torch.int32)}
    for name, value in state.items():
        part = name.split(".")
        if part[0] == "h" and part[2] in places:
            name = ".".join(part[:2] + [places[part[2]], part[3]])
            value = value.t() if part[3] == "weight" else value
        out[name] = value.contiguous()
    return out


def main():
    saved = torch.load(sys.argv[1], weights_only=True)
    save_file(tensors(saved["model"], saved["vocab"]), sys.argv[2], metadata={
        "format": "pt", "n_head": str(saved["shape"]["heads"]), "license": "MIT",
        "description": pathlib.Path(sys.argv[2]).stem + ": a GPT-2 of six layers for mi, trained on text made by "
                       "train/text.py; no outside data"})


if __name__ == "__main__":
    main()
