#!/usr/bin/env python3
"""Makes sae.golden and sae/: what SAELens itself makes of small files of all its architectures.

    pip install sae-lens                            (6.54; it brings torch and transformer_lens 3)
    python3 tests/golden/make_sae.py

Weights are random, and so is the model, odd7; their numbers are those of SAELens in float64, with
the model in TransformerLens. The one SAE that learned something is that of labs/sae, on tiny:
make_sae_tiny.py. A case of sae.golden begins with "case NAME MODEL WEIGHTS" and its cfg.json in the
next line; then
    f ROW POSITION FEATURE VALUE        each feature that is not 0, of the rows of PROMPTS
    xhat ROW POSITION VALUES            its reconstruction, as the model would get it
    given VALUES VALUES                 a vector of small numbers, and its reconstruction
    metric NAME VALUE                   of sae_lens.evals, over all rows
    ablate FEATURES... VALUE            logit 36 - logit 37 of row 0 without these features at AT
    swap FEATURES... VALUE              the same with their values of row 1; the error term is kept
    promote FEATURE TOKEN VALUE         what its decoder adds to a logit, before sigma: the highest
"""
import json
import os
import shutil
import tempfile
import warnings

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformer_lens import HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights
from transformers import GPT2Config, GPT2LMHeadModel
from sae_lens import SAE, HookedSAETransformer
from sae_lens.evals import get_downstream_reconstruction_metrics, get_sparsity_and_variance_metrics
from sae_lens.training.activation_scaler import ActivationScaler

warnings.simplefilter("ignore")
HERE = os.path.dirname(os.path.abspath(__file__))
SEED, D, H, HEAD, F, SAE_F, K = 12, 21, 3, 7, 84, 40, 6
PROMPTS = [[32, 33, 34, 32, 33, 35, 40], [1, 2, 3, 4, 5, 6, 7], [9, 8, 7, 6, 5, 4, 3], [40, 41, 42, 43, 40, 41, 42]]
ANSWER, VERSUS, AT = 36, 37, -2


def load_model(path, heads, center=False):
    """GPT-2 in TransformerLens, float64, hooks as an SAE gets them; the ids of its rows"""
    tensors = {k.removeprefix("transformer."): v for k, v in load_file(path).items()}
    ids = tensors.pop("vocab_ids", None)
    V, d_model = tensors["wte.weight"].shape
    L = 1 + max(int(k.split(".")[1]) for k in tensors if k.startswith("h."))
    n_ctx = tensors["wpe.weight"].shape[0]
    hf = GPT2LMHeadModel(GPT2Config(vocab_size=V, n_embd=d_model, n_layer=L, n_head=heads, n_positions=n_ctx)).double().eval()
    head = tensors.pop("lm_head.weight", tensors["wte.weight"])
    hf.transformer.load_state_dict({k: v.double() for k, v in tensors.items()
                                    if not k.endswith((".attn.bias", "masked_bias"))}, strict=False)
    hf.lm_head.weight = torch.nn.Parameter(head.double())
    cfg = HookedTransformerConfig(
        n_layers=L, d_model=d_model, n_ctx=n_ctx, d_head=d_model // heads, n_heads=heads, d_vocab=V,
        d_mlp=tensors["h.0.mlp.c_fc.weight"].shape[1], act_fn="gelu_new", normalization_type="LN", eps=1e-5,
        dtype=torch.float64, device="cpu", attn_only=False)
    model = HookedSAETransformer(cfg)
    model.load_and_process_state_dict(convert_gpt2_weights(hf, cfg), fold_ln=False, center_unembed=False,
                                      center_writing_weights=center, fold_value_biases=False)
    x = torch.tensor([[1, 2, 3, 4, 5]])
    assert (model(x) - hf(x).logits).abs().max() < (1e-6 if center else 1e-9)
    return model.eval(), ids


def weights(rng, architecture, d_in, d_sae):
    def normal(*shape, scale=1.0):
        return torch.tensor(rng.normal(size=shape) * scale, dtype=torch.float32)
    w = {"W_enc": normal(d_in, d_sae, scale=d_in ** -.5), "W_dec": normal(d_sae, d_in, scale=.4),
         "b_dec": normal(d_in, scale=.1)}
    if architecture == "gated":
        w |= {"b_gate": normal(d_sae, scale=.3), "b_mag": normal(d_sae, scale=.3), "r_mag": normal(d_sae, scale=.3)}
    else:
        w |= {"b_enc": normal(d_sae, scale=.3)}
    if architecture == "jumprelu":
        w |= {"threshold": normal(d_sae, scale=.3).abs()}
    return w


def new_cfg(architecture, hook="blocks.1.hook_resid_pre", d_in=D, d_sae=SAE_F, head=None, kwargs=None, **more):
    """as SAELens 6 writes it"""
    cfg = {"d_in": d_in, "d_sae": d_sae, "dtype": "float32", "device": "cpu", "apply_b_dec_to_input": True,
           "normalize_activations": "none", "reshape_activations": "hook_z" if hook.endswith("_z") and head is None
           else "none",
           "metadata": {"sae_lens_version": "6.54.12", "sae_lens_training_version": "6.54.12",
                        "dataset_path": "none", "model_name": "odd7", "hook_name": hook, "hook_head_index": head,
                        "model_class_name": "HookedTransformer", "context_size": 24, "prepend_bos": False,
                        "seqpos_slice": [None], "exclude_special_tokens": False,
                        "model_from_pretrained_kwargs": kwargs or {}},
           "architecture": architecture}
    if architecture == "topk":
        cfg |= {"k": K, "rescale_acts_by_decoder_norm": False}
    return cfg | more


def old_cfg(**more):
    """as SAELens 3 to 5 wrote it"""
    return {"architecture": "standard", "d_in": D, "d_sae": SAE_F, "dtype": "float32", "device": "cpu",
            "model_name": "odd7", "hook_name": "blocks.1.hook_resid_pre", "hook_layer": 1, "hook_head_index": None,
            "activation_fn_str": "relu", "activation_fn_kwargs": {}, "apply_b_dec_to_input": True,
            "finetuning_scaling_factor": False, "sae_lens_training_version": "3.13.1", "prepend_bos": False,
            "dataset_path": "none", "dataset_trust_remote_code": True, "context_size": 24,
            "normalize_activations": "none", "neuronpedia_id": None, "seqpos_slice": [None],
            "model_from_pretrained_kwargs": {}} | more


# as gpt2-small-res-jb has it on the hub, where SAELens' own list adds the last line
FIRST_CFG = {"model_name": "odd7", "hook_point": "blocks.1.hook_resid_pre", "hook_point_layer": 1,
             "hook_point_head_index": None, "dataset_path": "none", "is_dataset_tokenized": False,
             "context_size": 24, "use_cached_activations": False, "cached_activations_path": "activations", "d_in": D,
             "n_batches_in_buffer": 128, "total_training_tokens": 300000000, "store_batch_size": 32, "device": "mps",
             "seed": 42, "dtype": "torch.float32", "b_dec_init_method": "geometric_median", "expansion_factor": 32,
             "from_pretrained_path": None, "l1_coefficient": 8e-05, "lr": 0.0004, "lr_scheduler_name": None,
             "lr_warm_up_steps": 5000, "train_batch_size": 4096, "use_ghost_grads": False,
             "feature_sampling_window": 1000, "feature_sampling_method": None, "resample_batches": 1028,
             "feature_reinit_scale": 0.2, "dead_feature_window": 5000, "dead_feature_estimation_method": "no_fire",
             "dead_feature_threshold": 1e-08, "log_to_wandb": True, "wandb_project": "none", "wandb_entity": None,
             "wandb_log_frequency": 100, "n_checkpoints": 10, "checkpoint_path": "checkpoints", "d_sae": SAE_F,
             "tokens_per_buffer": 67108864, "run_name": "none", "prepend_bos": False,
             "model_from_pretrained_kwargs": {"center_writing_weights": True}}


def all_cases():
    for architecture in "standard", "jumprelu", "gated", "topk":
        for norm in "none", "constant_norm_rescale", "layer_norm":
            for apply in True, False:
                yield (f"{architecture}-{norm}-{'less' if apply else 'with'}-b_dec", architecture,
                       new_cfg(architecture, normalize_activations=norm, apply_b_dec_to_input=apply))
        yield (architecture + "-average", architecture,
               new_cfg(architecture, normalize_activations="expected_average_only_in", norm_scaling_factor=1.7))
    for norm in "none", "layer_norm", "expected_average_only_in":
        yield ("topk-rescaled-" + norm, "topk", new_cfg("topk", rescale_acts_by_decoder_norm=True,
               normalize_activations=norm, **({"norm_scaling_factor": .6} if norm[0] == "e" else {})))
    for hook in "hook_resid_mid", "hook_resid_post", "hook_attn_out", "hook_mlp_out", "attn.hook_z":
        yield hook, "standard", new_cfg("standard", "blocks.2." + hook)
    yield "head", "head", new_cfg("gated", "blocks.1.attn.hook_z", d_in=HEAD, d_sae=12, head=2)
    yield "neurons", "neurons", new_cfg("topk", "blocks.1.mlp.hook_post", d_in=F, d_sae=12)
    for hook in "hook_resid_pre", "hook_attn_out":
        for norm in "none", "layer_norm", "constant_norm_rescale":
            yield (f"centred-{hook}-{norm}", "jumprelu",
                   new_cfg("jumprelu", "blocks.1." + hook, normalize_activations=norm,
                           kwargs={"center_writing_weights": True}))
    yield "old", "standard", old_cfg()
    yield "old-gated", "gated", old_cfg(architecture="gated", apply_b_dec_to_input=False)
    yield "old-jumprelu", "jumprelu", old_cfg(architecture="jumprelu", normalize_activations="layer_norm")
    yield "old-topk", "topk", old_cfg(activation_fn_str="topk", activation_fn_kwargs={"k": 4})
    yield "old-average", "standard", old_cfg(normalize_activations=True, norm_scaling_factor=.8)
    yield "old-z", "standard", old_cfg(hook_name="blocks.0.attn.hook_z", normalize_activations=False)
    yield "first", "ones", FIRST_CFG
    yield "half", "half", new_cfg("standard", dtype="float16")


class Batch:
    """what SAELens' evaluation asks of its store of activations"""
    def __init__(self, tokens):
        self.tokens = tokens

    def get_batch_tokens(self, *_):
        return self.tokens


def load_sae(cfg, file):
    folder = tempfile.mkdtemp()
    with open(os.path.join(folder, "cfg.json"), "w") as f:
        json.dump(cfg, f)
    shutil.copy(file, os.path.join(folder, "sae_weights.safetensors"))
    sae = SAE.load_from_disk(folder, dtype="float64")
    if "norm_scaling_factor" in cfg:
        sae.fold_activation_norm_scaling_factor(cfg["norm_scaling_factor"])
    shutil.rmtree(folder)
    return sae


def away_from_edges(sae, pre):
    """no feature is so near its threshold that rounding decides"""
    architecture = sae.cfg.architecture()
    if architecture == "topk":
        pre = pre * sae.W_dec.norm(dim=-1) if sae.cfg.rescale_acts_by_decoder_norm else pre
        top = pre.sort(dim=-1, descending=True).values[..., sae.cfg.k - 1:sae.cfg.k + 1]
        assert (top[..., 0] - top[..., 1]).min() > 1e-5
    else:
        assert (pre - (sae.threshold if architecture == "jumprelu" else 0)).abs().min() > 1e-5


@torch.no_grad()
def record(out, model, sae, rows, bos, answer, versus, at, some, centred=False):
    """some: how many positions and features of the strongest are written down"""
    name, head = sae.cfg.metadata.hook_name, sae.cfg.metadata.hook_head_index
    tokens = torch.tensor(rows)
    ignore = [bos] if bos is not None else None
    x = model.run_with_cache(tokens, names_filter=[name])[1][name]
    if head is not None:
        x = x[:, :, head]
    seen = []
    sae.hook_sae_acts_pre.add_hook(lambda v, hook: seen.append(v))
    f = sae.encode(x)
    sae.reset_hooks()
    away_from_edges(sae, seen[0])
    xhat, reshapes = sae.decode(f), sae.hook_z_reshaping_mode
    xhat = xhat.flatten(2) if reshapes else xhat
    positions = [(b, t) for b in range(len(rows)) for t in range(len(rows[0]))][-some:]
    for b, t in positions:
        for j in f[b, t].nonzero().flatten().tolist():
            out.append(f"f {b} {t} {j} {f[b, t, j]:.9g}")
        out.append(f"xhat {b} {t} " + " ".join(f"{v:.9g}" for v in xhat[b, t].tolist()))
    small = torch.tensor(np.random.default_rng(1).normal(size=sae.cfg.d_in).astype(np.float32) * 1e-3).double()
    sae.turn_off_forward_pass_hook_z_reshaping()        # its evaluation has heads side by side
    seen_by_sae = small - small.mean() if centred else small
    out.append("given " + " ".join(f"{v:.9g}" for v in [*small.tolist(), *sae(seen_by_sae).tolist()]))
    metrics, _ = get_sparsity_and_variance_metrics(
        sae, model, Batch(tokens), ActivationScaler(), 1, False, True, True, True, len(rows), {}, ignore)
    metrics |= get_downstream_reconstruction_metrics(
        sae, model, Batch(tokens), ActivationScaler(), False, True, 1, len(rows), ignore)
    for key in ("l0", "explained_variance", "ce_loss_without_sae", "ce_loss_with_sae", "ce_loss_with_ablation",
                "ce_loss_score"):
        out.append(f"metric {key} {metrics[key]:.9g}")
    if reshapes:
        sae.turn_on_forward_pass_hook_z_reshaping()

    def spliced(change):
        """logit difference of row 0 with an edit of its features at `at`, the error kept"""
        if head is not None:                # SAELens' wrapper has no single heads
            def one_head(z, hook):
                new = z.clone()
                error = z[:, :, head] - sae.decode(sae.encode(z[:, :, head]))
                g = sae.encode(z[:, :, head])
                change(g)
                new[:, :, head] = sae.decode(g) + error
                return new
            logits = model.run_with_hooks(tokens[:1], fwd_hooks=[(name, one_head)])
        else:
            def hook(g, hook):
                change(g)
                return g
            with model.saes(saes=[sae], use_error_term=True):
                logits = model.run_with_hooks(tokens[:1], fwd_hooks=[(name + ".hook_sae_acts_post", hook)])
        return (logits[0, -1, answer] - logits[0, -1, versus]).item()
    clean = model(tokens[:1])[0, -1]
    assert abs(spliced(lambda g: None) - (clean[answer] - clean[versus]).item()) < 1e-9
    base, source = f[0, at], f[1, at]
    norm = sae.W_dec.norm(dim=-1)
    for op, to, order in ("ablate", torch.zeros_like(base), base), ("swap", source, (source - base).abs()):
        list_of = (order * norm).argsort(descending=True).tolist()[:4]
        for n in 1, 4:
            def change(g, list_of=list_of[:n], to=to):
                g[0, at, list_of] = to[list_of]
            out.append(f"{op} {' '.join(map(str, list_of[:n]))} {spliced(change):.9g}")

    W_U, gamma = model.W_U, model.ln_final.w
    layer = int(name.split(".")[1])
    W_O = model.W_O[layer].flatten(0, 1) if head is None else model.W_O[layer, head]
    to_stream = {"hook_z": W_O, "hook_post": model.W_out[layer]}.get(name.split(".")[-1])
    for j in list_of[:2]:
        w = sae.W_dec[j] if to_stream is None else sae.W_dec[j] @ to_stream
        logit = ((w - w.mean()) * gamma) @ W_U
        out.append(f"promote {j} {logit.argmax()} {logit.max():.9g}")


def main():
    rng, folder = np.random.default_rng(SEED), os.path.join(HERE, "sae")
    files = {a: weights(rng, a, D, SAE_F) for a in ("standard", "jumprelu", "gated", "topk")}
    files["head"], files["neurons"] = weights(rng, "gated", HEAD, 12), weights(rng, "topk", F, 12)
    files["ones"] = files["standard"] | {"scaling_factor": torch.ones(SAE_F)}
    files["half"] = {k: v.half() for k, v in files["standard"].items()}
    for name, tensors in files.items():
        save_file(tensors, os.path.join(folder, name + ".safetensors"))
    out, path = [], os.path.join(HERE, "odd7.safetensors")
    models = {center: load_model(path, H, center)[0] for center in (False, True)}
    for name, file, cfg in all_cases():
        sae = load_sae(cfg, os.path.join(folder, file + ".safetensors"))
        out += [f"case {name} odd7 {file}", json.dumps(cfg)]
        kwargs = cfg.get("metadata", cfg)["model_from_pretrained_kwargs"]
        centred = kwargs.get("center_writing_weights", False)
        record(out, models[centred], sae, PROMPTS, None, ANSWER, VERSUS, AT, 3, centred)
    with open(os.path.join(HERE, "sae.golden"), "w") as f:
        f.write("\n".join(out) + "\n")


if __name__ == "__main__":
    main()
