#!/usr/bin/env python3
"""Makes jlens.golden: the Jacobian lens of TransformerLens 4.3 (JacobianLens.fit and readout) on small
random models. Compared by tests/test_lab_gradients.sh with what labs/jlens prints.

    pip install torch numpy safetensors transformers 'transformer_lens>=4.3'
    python3 tests/golden/make_jlens.py

Texts are the token ids of jlens_texts.txt. Lines, with tabs: MODEL LAYER logit_diff KL
"""
import os
import sys
import tempfile

import torch
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.tools.analysis import JacobianLens

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
from make_readouts import load                      # noqa: E402

SKIP = 1
CASES = [("odd7", [32, 33, 34, 32, 33, 35, 40], 36, 37), ("brain11", [1, 4, 2, 8, 5, 7, 1, 3], 2, 3)]


def main():
    with open(os.path.join(HERE, "jlens_texts.txt")) as file:
        texts = [[int(word) for word in line.lstrip("#").split()] for line in file]
    with open(os.path.join(HERE, "jlens.golden"), "w") as out:
        for name, tokens, answer, versus in CASES:
            model, _, _ = load(os.path.join(HERE, name + ".safetensors"))
            with tempfile.TemporaryDirectory() as folder:
                model.save_pretrained(folder)
                bridge = TransformerBridge.boot_transformers(folder)
            bridge.to_tokens = lambda text: torch.tensor([texts[int(text)]])
            bridge.eval()
            lens = JacobianLens.fit(bridge, [str(i) for i in range(len(texts))], corpus="ids",
                                    skip_first_positions=SKIP, show_progress=False)
            read = lens.readout(bridge, torch.tensor([tokens]), positions=[-1],
                                return_full_logits=True, top_k=1)
            said = read.model_logits[0].double().log_softmax(-1)
            for layer in sorted(lens.source_layers):
                logits = read.lens_logits[layer][0].double()
                kl = (said.exp() * (said - logits.log_softmax(-1))).sum()
                print(name, layer, "%.6f" % (logits[answer] - logits[versus]), "%.6f" % kl, sep="\t",
                      file=out)


main()
