#!/usr/bin/env python3
"""Makes labs/sae/, an SAE of tiny that SAELens trained and saved, and sae_tiny.golden, what SAELens
says about it.

    pip install sae-lens regex                      (6.54)
    python3 tests/golden/make_sae_tiny.py BPE_FOLDER    encoder.json and vocab.bpe of GPT-2

It is trained on the lines of tests/data/text.txt after the first 200, which the lab measures it on.
The golden file is as sae.golden, of the lines with LENGTH tokens among the first, after
<|endoftext|>, which is not counted.
"""
import json
import os
import sys

import torch
from safetensors.torch import load_file, save_file
from sae_lens import SAETrainer, LoggingConfig, TrainingSAE
from sae_lens.config import SAETrainerConfig

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, "..", "..")
sys.path[:0] = [HERE, os.path.join(ROOT, "train")]
from bpe import EOT, Bpe                                            # noqa: E402
from make_sae import load_model, load_sae, record                  # noqa: E402

HOOK, FEATURES, LENGTH, STEPS, BATCH = "blocks.3.hook_resid_pre", 256, 14, 4000, 512


def main():
    torch.manual_seed(0)
    model, ids = load_model(os.path.join(ROOT, "tiny.safetensors"), 4)
    row = {int(i): r for r, i in enumerate(ids)}
    bpe = Bpe(sys.argv[1])
    with open(os.path.join(ROOT, "tests/data/text.txt"), encoding="utf-8") as f:
        lines = [[row[EOT]] + [row[i] for i in bpe.encode(line.rstrip("\n"))] for line in f]
    with torch.no_grad():
        x = torch.cat([model.run_with_cache(torch.tensor([line]), names_filter=[HOOK])[1][HOOK][0, 1:]
                       for line in lines[200:]]).float()
    print(x.shape, "activations")

    def batches():
        while True:
            yield x[torch.randint(len(x), (BATCH,))]
    sae = TrainingSAE.from_dict({
        "architecture": "batchtopk", "d_in": x.shape[1], "d_sae": FEATURES, "dtype": "float32", "device": "cpu",
        "apply_b_dec_to_input": True, "normalize_activations": "none", "k": 10,
        "metadata": {"hook_name": HOOK, "hook_head_index": None, "model_name": "tiny", "prepend_bos": True,
                     "model_class_name": "HookedTransformer", "context_size": 128,
                     "model_from_pretrained_kwargs": {}, "exclude_special_tokens": True}})
    SAETrainer(cfg=SAETrainerConfig(
        total_training_samples=STEPS * BATCH, train_batch_size_samples=BATCH, lr=1e-3, lr_end=1e-4,
        lr_scheduler_name="constant", lr_warm_up_steps=200, lr_decay_steps=STEPS // 3, device="cpu",
        logger=LoggingConfig(log_to_wandb=False)), sae=sae, data_provider=batches()).fit()
    sae.fold_W_dec_norm()
    folder = os.path.join(ROOT, "labs", "sae")
    file, _ = sae.save_inference_model(folder)
    save_file({k: v.half() for k, v in load_file(file).items()}, file)      # half the size

    with open(os.path.join(folder, "cfg.json")) as f:
        cfg = json.load(f)
    out = ["case tiny tiny -", json.dumps(cfg)]
    rows = [line for line in lines[:200] if len(line) == LENGTH + 1][:6]
    print(len(rows), "rows")
    for r in rows:
        out.append("row " + " ".join(map(str, r)))
    record(out, model, load_sae(cfg, file), rows, row[EOT], row[5335], row[1757], -2, 6)
    with open(os.path.join(HERE, "sae_tiny.golden"), "w") as f:
        f.write("\n".join(out) + "\n")
    print("\n".join(line for line in out if line.startswith("metric")))


if __name__ == "__main__":
    main()
