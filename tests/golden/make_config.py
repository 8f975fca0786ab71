"""Golden files of config.json: what transformers computes with each setting.

    pip install torch==2.13.0 transformers            # written with transformers 5.24
    python tests/golden/make_config.py                # from the root of the repository

Writes into tests/golden/config/:

    WEIGHTS.safetensors    as GPT2LMHeadModel.save_pretrained() writes it; models that differ in
                           config.json alone share one
    NAME.json              the config.json of that call
    golden.txt             one line for each model: NAME WEIGHTS computed, and the logits after the
                           last of TOKENS; or NAME WEIGHTS refused KEY, the setting that mi names

Some settings mean more than mi computes. Their logits differ from those of the same weights with
GPT-2's own settings (asserted here), so mi has to refuse them.
"""
import json, os, shutil, sys
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "config")
SCRATCH = os.path.join(HERE, "scratch")
TOKENS = [3, 17, 0, 22, 9, 9, 14]
SHAPE = dict(vocab_size=24, n_positions=10, n_embd=12, n_layer=3, n_head=3,
             bos_token_id=None, eos_token_id=None)


def model_of(**settings):
    """The same random weights for the same shapes, large enough that every setting matters."""
    model = GPT2LMHeadModel(GPT2Config(**{**SHAPE, **settings})).eval()
    g = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            centre = 1.0 if ".ln_" in name and name.endswith("weight") else 0.0
            p.copy_(centre + (0.4 if p.dim() == 1 else 0.7) * torch.randn(p.shape, generator=g))
    return model


def logits_of(folder):
    # eager: reorder_and_upcast_attn exists there only, and there only for float32
    model = GPT2LMHeadModel.from_pretrained(folder, attn_implementation="eager").eval()
    if not model.config.reorder_and_upcast_attn:
        model = model.double()
    with torch.no_grad():
        return model(torch.tensor([TOKENS])).logits[0, -1]


def saved(name, weights, change=None, edit=None, **settings):
    """Save, let change(config) and edit(tensors) rewrite what was saved, and load it again."""
    folder = os.path.join(SCRATCH, name)
    model_of(**settings).save_pretrained(folder)
    config = json.load(open(os.path.join(folder, "config.json")))
    if change:
        change(config)
        json.dump(config, open(os.path.join(folder, "config.json"), "w"), indent=2)
    path = os.path.join(folder, "model.safetensors")
    if edit:
        tensors = load_file(path)
        edit(tensors)
        save_file(tensors, path, metadata={"format": "pt"})
    shutil.copy(os.path.join(folder, "config.json"), os.path.join(HERE, name + ".json"))
    kept = os.path.join(HERE, weights + ".safetensors")
    if os.path.exists(kept):
        a, b = load_file(kept), load_file(path)
        assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a), name
    else:
        shutil.copyfile(path, kept)
    return logits_of(folder)


def renamed(**names):
    def change(config):
        for old, new in names.items():
            config[new] = config.pop(old)
    return change


def main():
    shutil.rmtree(HERE, ignore_errors=True)
    os.makedirs(SCRATCH)
    plain = saved("plain", "plain")
    lines = ["plain plain computed " + " ".join("%.9g" % x for x in plain)]

    def computed(name, weights="plain", same=False, **how):
        logits = saved(name, weights, **how)
        assert same == bool((logits - plain).abs().max() < 1e-4), name
        lines.append("%s %s computed " % (name, weights) + " ".join("%.9g" % x for x in logits))

    def refused(name, key, weights="plain", **how):
        try:
            differs = (saved(name, weights, **how) - plain).abs().max() > 1e-5
        except (ValueError, RuntimeError) as why:       # transformers refuses it as well
            print(name, "is refused by transformers:", why)
            differs = True
        assert differs or name in ("cross", "untied_without"), name
        lines.append("%s %s refused %s" % (name, weights, key))

    computed("epsilon_large", layer_norm_epsilon=1e-1)
    computed("epsilon_small", layer_norm_epsilon=1e-12, same=True)
    computed("unscaled", scale_attn_weights=False)
    computed("by_layer", scale_attn_by_inverse_layer_idx=True)
    computed("unscaled_by_layer", scale_attn_weights=False, scale_attn_by_inverse_layer_idx=True)
    computed("upcast", reorder_and_upcast_attn=True, same=True)
    computed("upcast_by_layer", reorder_and_upcast_attn=True, scale_attn_by_inverse_layer_idx=True)
    for name in "gelu_pytorch_tanh", "gelu_fast", "gelu_accurate", "gelu_python_tanh":
        computed(name, activation_function=name, same=True)
    computed("other_names", same=True, change=renamed(
        n_head="num_attention_heads", n_embd="hidden_size", n_layer="num_hidden_layers",
        n_positions="max_position_embeddings"))
    computed("heads_4", n_head=4)
    computed("inner", "inner", n_inner=20)
    computed("untied", "untied", tie_word_embeddings=False)
    # transformers: "both are present with different values, so we will NOT tie them"
    computed("tied_but_differs", "untied", tie_word_embeddings=False,
             change=lambda c: c.update(tie_word_embeddings=True))

    for name in "relu", "gelu", "quick_gelu", "silu", "tanh", "gelu_10", "linear":
        refused(name, "activation_function", activation_function=name)
    refused("bidirectional", "is_causal", change=lambda c: c.update(is_causal=False))
    refused("cross", "add_cross_attention",
            change=lambda c: c.update(add_cross_attention=True))
    refused("untied_without", "tie_word_embeddings",
            change=lambda c: c.update(tie_word_embeddings=False))
    shutil.rmtree(SCRATCH)
    with open(os.path.join(HERE, "golden.txt"), "w") as out:
        out.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
