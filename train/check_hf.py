"""Does Hugging Face's GPT-2, loaded with tiny.safetensors, give our own logits? `python check_hf.py TINY BPE`"""
import sys

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel

from evaluate import load


def main():
    lab, weights = load(sys.argv[1], sys.argv[2]), load_file(sys.argv[1])
    with safe_open(sys.argv[1], "pt") as f:
        heads = int(f.metadata()["n_head"])
    vocab = weights.pop("vocab_ids").tolist()
    assert vocab == lab.vocab
    (rows, width), context = weights["wte.weight"].shape, weights["wpe.weight"].shape[0]
    layers = 1 + max(int(n.split(".")[1]) for n in weights if n.startswith("h."))
    theirs = GPT2LMHeadModel(GPT2Config(vocab_size=rows, n_positions=context, n_embd=width, n_layer=layers, n_head=heads))
    missing, unexpected = theirs.transformer.load_state_dict(weights, strict=False)
    assert not unexpected and all("attn.bias" in m or "masked_bias" in m for m in missing), (missing, unexpected)
    theirs.tie_weights()
    x = torch.randint(0, rows, (8, context), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        worst = (theirs.eval()(x).logits - lab.model.logits(x)).abs().max().item()
    print(f"largest difference of a logit: {worst:.2e}")
    assert worst < 1e-3


if __name__ == "__main__":
    main()
