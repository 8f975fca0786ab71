#!/usr/bin/env python3
"""Makes the golden files: what two other implementations of GPT-2 compute, for mi to agree with.

    pip install -r train/requirements.txt                  transformer_lens 4.3.0
    python3 tests/golden/make_golden.py                    everything
    python3 tests/golden/make_golden.py --only tiny        one model; NAME of MODELS below, or tiny
    options: --tiny FILE  --tokenizer FILE                 default: the two beside the Makefile
    another reference: pip install torch==2.13.0 transformer-lens==2.18.0 "pyarrow<21" in an
    environment of its own; this script then takes its HookedTransformer, which 4.0 removed

It writes the random models of MODELS into this directory, and for each model NAME.golden, which
tests/test_golden.c replays through mi.h; for tiny and those in SWEPT also NAME.sweeps, which
tests/test_sweeps.c replays. tiny's files belong to one tiny.safetensors: when that file changes,
run this again with --only tiny.

References, all in float64 from the weights as the file rounds them, stored as float32:
  transformers             GPT2LMHeadModel: logits, mean loss, greedy generation
  transformer_lens         TransformerBridge without weight processing: every site, interventions
  transformer_lens folded  the same with its default processing (fold_ln, center_writing_weights,
                           center_unembed, fold_value_biases): what "=tlzero" means
What TransformerBridge 4.3 does otherwise than HookedTransformer did, and what is done about it:
  resid_mid                its hook is at the input of ln2, which is not all that reads resid_mid:
                           a value that a hook returns there would miss the residual stream. An
                           edit of it is written into the tensor itself (put()), which both read,
                           as transformer_lens.patching does. check_interventions() holds it
                           against transformers.
  ln1, ln2, ln_f           hook_normalized is before gamma and beta there, so hook_out is taken
  masks                    finite, unless in compatibility mode: a query whose every key is knocked
                           out would look at later ones, or be NaN. So both models are in that mode.
  folding                  rounds weights to float32, even those of a model in float64, by calling
                           Tensor.float(), which is Tensor.double() for that long
An intervention is written once, as mi's own command line says it. parse() below reads that
grammar by itself, and hooks_of() turns it into hooks of transformer_lens.

A golden file is lines of text, and after each "compare" line its numbers:
  model FILE FNV           path from the repository's root; FNV-1a (64 bit) of its bytes
  by NAME                  the reference; starts a record
  tokens N ROW...          the prompt
  source N ROW...          the donor of --patch (no line: none)
  toward N ROW...          the two texts of --steer and --project (no lines: none)
  away N ROW...
  edit OP ARGUMENT         as on the command line, in order
  compare WHAT LAYER N     then N float32, little-endian, then a newline. WHAT is a site (all
                           positions; scores and pattern: [position][head][key <= position]), or
                           logits (all positions), last (logits of the last position), centred
                           and last_centred (minus their mean over the vocabulary), loss, greedy
                           (rows), lens (logits that ln_f and the unembedding read, at the last
                           position, from resid_pre and resid_mid of each layer and the last
                           resid_post), lens_final (the same with the mean and sigma of the end)
  end RECORDS              the last line

A file NAME.sweeps has whole tables of patches, as transformer_lens.patching makes them. A record:
  by FUNCTION              of transformer_lens.patching
  tokens, source           as above: the prompt, and the donor of every patch
  answer ROW, versus ROW   the metric is the difference of their logits at the last position
  sweep patch ARGUMENT     as on the command line before --each
  axes N...                how many values the stars of ARGUMENT stand for, in their order
  compare cells 0 N        the metric of each cell, the last axis fastest; where a key comes after
                           the query there is nothing to patch, and the metric is the prompt's own
"""
import argparse
import json
import os
import re
import struct
import tempfile
import warnings
from unittest import mock

os.environ.setdefault("HF_HUB_OFFLINE", "1")    # models come from folders only

import numpy as np
import torch
from safetensors import safe_open
from transformer_lens import patching
from transformers import GPT2Config, GPT2LMHeadModel, logging

try:
    from transformer_lens.model_bridge import TransformerBridge
except ImportError:                     # 2.18
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions.gpt2 import convert_gpt2_weights
    TransformerBridge = None

logging.set_verbosity_error()
logging.disable_progress_bar()
warnings.filterwarnings("ignore")
torch.set_num_threads(1)
torch.set_grad_enabled(False)
patching.tqdm = list                    # no progress bars

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))

# ---- The random models ----

MODELS = {
    # heads: where the file says n_head: its __metadata__ or config.json beside it
    # buffers: the dtype of the causal masks that some published files carry
    # full: how much of the list of interventions is replayed on it
    "odd7":    dict(L=3, H=3, d=7, V=53, n_ctx=24, dtype="F32", heads="metadata", prefix=True,
                    untied=False, buffers="F32", odd_start=True, seed=11, n=9, full=1.0,
                    vocab="gpt2"),          # its 53 tokens are GPT-2's first: ! to U
    "beside5": dict(L=2, H=7, d=5, V=61, n_ctx=27, dtype="F32", heads="config", prefix=False,
                    untied=True, buffers=None, odd_start=False, seed=12, n=8, full=0.35),
    "half12":  dict(L=2, H=4, d=12, V=67, n_ctx=22, dtype="F16", heads="metadata", prefix=True,
                    untied=False, buffers="BOOL", odd_start=True, seed=13, n=7, full=0.25),
    "brain11": dict(L=4, H=2, d=11, V=41, n_ctx=26, dtype="BF16", heads="metadata", prefix=False,
                    untied=True, buffers="F32", odd_start=False, seed=14, n=8, full=0.35),
    "wide64":  dict(L=1, H=2, d=64, V=33, n_ctx=21, dtype="F16", heads="metadata", prefix=False,
                    untied=False, buffers=None, odd_start=False, seed=15, n=6, full=0.25),
}


def model_path(name):
    """-> path from the repository's root"""
    beside = MODELS[name]["heads"] == "config"
    return f"tests/golden/{name}{'/model' if beside else ''}.safetensors"


def random_weights(spec):
    """Large enough that attention is far from uniform and every bias and gain matters."""
    rng = np.random.default_rng(spec["seed"])
    L, D, V = spec["L"], spec["H"] * spec["d"], spec["V"]
    normal = lambda *shape, std: (std * rng.standard_normal(shape)).astype(np.float32)
    weights = {"wte.weight": normal(V, D, std=0.6), "wpe.weight": normal(spec["n_ctx"], D, std=0.4)}
    for l in range(L):
        h = f"h.{l}."
        for ln in "ln_1", "ln_2":
            weights[h + ln + ".weight"] = 1 + normal(D, std=0.3)
            weights[h + ln + ".bias"] = normal(D, std=0.3)
        for part, n_in, n_out, gain in (("attn.c_attn", D, 3 * D, 1.4), ("attn.c_proj", D, D, 0.9),
                                        ("mlp.c_fc", D, 4 * D, 1.3), ("mlp.c_proj", 4 * D, D, 0.9)):
            weights[h + part + ".weight"] = normal(n_in, n_out, std=gain / n_in ** 0.5)
            weights[h + part + ".bias"] = normal(n_out, std=0.3)
    weights["ln_f.weight"] = 1 + normal(D, std=0.3)
    weights["ln_f.bias"] = normal(D, std=0.3)
    if spec["untied"]:
        weights["lm_head.weight"] = normal(V, D, std=0.6)
    return weights


def to_bytes(array, dtype):
    if dtype == "BF16":
        return torch.from_numpy(array).to(torch.bfloat16).view(torch.int16).numpy().tobytes()
    return array.astype({"F32": "<f4", "F16": "<f2", "BOOL": "u1"}[dtype]).tobytes()


def write_model(name, spec):
    weights, n_ctx = random_weights(spec), spec["n_ctx"]
    tensors = [(key, array, spec["dtype"]) for key, array in weights.items()]
    if spec["buffers"]:
        for l in range(spec["L"]):
            mask = np.tril(np.ones((1, 1, n_ctx, n_ctx), np.float32))
            tensors.append((f"h.{l}.attn.bias", mask, spec["buffers"]))
            tensors.append((f"h.{l}.attn.masked_bias", np.float32(-1e4), "F32"))
    header, blobs, offset = {}, [], 0
    if spec["heads"] == "metadata":
        header["__metadata__"] = {"format": "pt", "n_head": str(spec["H"])}
        if "vocab" in spec:
            header["__metadata__"]["vocab"] = spec["vocab"]
    for key, array, dtype in tensors:
        if spec["prefix"] and key != "lm_head.weight":
            key = "transformer." + key
        blobs.append(to_bytes(np.asarray(array), dtype))
        header[key] = {"dtype": dtype, "shape": list(np.shape(array)),
                       "data_offsets": [offset, offset + len(blobs[-1])]}
        offset += len(blobs[-1])
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * ((1 - len(text)) % 8 if spec["odd_start"] else -len(text) % 8)
    path = os.path.join(ROOT, model_path(name))
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + b"".join(blobs))
    if spec["heads"] == "config":
        with open(os.path.join(os.path.dirname(path), "config.json"), "w") as file:
            json.dump({"model_type": "gpt2", "n_layer": spec["L"], "n_head": spec["H"],
                       "n_embd": spec["H"] * spec["d"], "vocab_size": spec["V"]}, file, indent=2)
            file.write("\n")


# ---- The references ----

LN_OUT = "hook_out" if TransformerBridge else "hook_normalized"     # gamma and beta included
SITES = {           # name: (width, hook of transformer_lens)
    "embed": ("D", "hook_embed"), "pos_embed": ("D", "hook_pos_embed"),
    "resid_pre": ("D", "blocks.%d.hook_resid_pre"),
    "ln1_scale": ("1", "blocks.%d.ln1.hook_scale"), "ln1": ("D", "blocks.%d.ln1." + LN_OUT),
    "q": ("H", "blocks.%d.attn.hook_q"), "k": ("H", "blocks.%d.attn.hook_k"),
    "v": ("H", "blocks.%d.attn.hook_v"), "scores": ("K", "blocks.%d.attn.hook_attn_scores"),
    "pattern": ("K", "blocks.%d.attn.hook_pattern"), "z": ("H", "blocks.%d.attn.hook_z"),
    "attn_out": ("D", "blocks.%d.hook_attn_out"), "resid_mid": ("D", "blocks.%d.hook_resid_mid"),
    "ln2_scale": ("1", "blocks.%d.ln2.hook_scale"), "ln2": ("D", "blocks.%d.ln2." + LN_OUT),
    "mlp_pre": ("F", "blocks.%d.mlp.hook_pre"), "mlp_post": ("F", "blocks.%d.mlp.hook_post"),
    "mlp_out": ("D", "blocks.%d.hook_mlp_out"), "resid_post": ("D", "blocks.%d.hook_resid_post"),
    "ln_f_scale": ("1", "ln_final.hook_scale"), "ln_f": ("D", "ln_final." + LN_OUT),
}
OUTSIDE = ("embed", "pos_embed", "ln_f_scale", "ln_f")      # not in a block: no layer
NOT_HOOKS = ("ln1", "ln2", "ln_f")      # mi gives these no name of transformer_lens: see check()


def hook_name(site, layer):
    return SITES[site][1] if site in OUTSIDE else SITES[site][1] % layer


def places(m):
    return [(site, l) for site in SITES for l in range(1 if site in OUTSIDE else m.L)]


class References:
    def __init__(self, path, config_path=None):
        self.weights, self.n_head = {}, None
        with safe_open(path, framework="pt") as file:
            if "n_head" in (file.metadata() or {}):
                self.n_head = int(file.metadata()["n_head"])
            for key in file.keys():
                short = key.removeprefix("transformer.")
                if not short.endswith((".attn.bias", ".masked_bias")) and short != "vocab_ids":
                    self.weights[short] = file.get_tensor(key).double()
            has_ids = "vocab_ids" in file.keys()
            self.vocab_ids = file.get_tensor("vocab_ids").tolist() if has_ids else None
        if config_path:
            with open(config_path) as file:
                self.n_head = json.load(file)["n_head"]
        w = self.weights
        self.V, self.D = w["wte.weight"].shape
        self.n_ctx = w["wpe.weight"].shape[0]
        self.H = self.n_head
        self.d = self.D // self.H
        self.L = 1 + max(int(key.split(".")[1]) for key in w if key.startswith("h."))
        self.F = w["h.0.mlp.c_fc.weight"].shape[1]
        assert self.d * self.H == self.D
        self.hf = self._transformers()
        boot = self._bridge if TransformerBridge else self._hooked_transformer
        self.tl, self.folded = boot(fold=False), boot(fold=True)
        self.caches = {}

    def _transformers(self):
        w = self.weights
        untied = "lm_head.weight" in w
        config = GPT2Config(vocab_size=self.V, n_positions=self.n_ctx, n_embd=self.D,
                            n_layer=self.L, n_head=self.H, n_inner=self.F,
                            tie_word_embeddings=not untied, attn_implementation="eager",
                            bos_token_id=None, eos_token_id=None, pad_token_id=None)
        model = GPT2LMHeadModel(config).double().eval()
        state = {"transformer." + key: x for key, x in w.items() if key != "lm_head.weight"}
        state["lm_head.weight"] = w["lm_head.weight" if untied else "wte.weight"]
        missing, unexpected = model.load_state_dict(state, strict=False)
        assert not unexpected and all("attn.bias" in key or "masked" in key for key in missing)
        return model

    def _bridge(self, fold):
        with tempfile.TemporaryDirectory() as folder:
            self.hf.save_pretrained(folder)
            model = TransformerBridge.boot_transformers(folder, device="cpu", dtype=torch.float64)
        with mock.patch.object(torch.Tensor, "float", torch.Tensor.double):     # see "folding"
            model.enable_compatibility_mode(disable_warnings=True, no_processing=not fold)
        return model.eval()

    def _hooked_transformer(self, fold):
        cfg = HookedTransformerConfig(
            n_layers=self.L, d_model=self.D, d_head=self.d, n_heads=self.H, d_mlp=self.F,
            n_ctx=self.n_ctx, d_vocab=self.V, act_fn="gelu_new", eps=1e-5, device="cpu",
            normalization_type="LNPre" if fold else "LN", dtype=torch.float64,
            default_prepend_bos=False)
        model = HookedTransformer(cfg)
        state = {key: x.detach().clone() for key, x in convert_gpt2_weights(self.hf, cfg).items()}
        model.load_and_process_state_dict(state, fold_ln=fold, center_writing_weights=fold,
                                          center_unembed=fold, fold_value_biases=fold)
        return model.eval()

    def run(self, tokens, hooks=(), folded=False):
        """-> logits [T, V], {hook: value with hooks applied}"""
        model, got = (self.folded if folded else self.tl), {}
        def keep(name):                 # hook.name may be another name of the same point
            def hook(x, hook):
                got[name] = x[0].clone()
            return name, hook
        names = [hook_name(site, l) for site, l in places(self)]
        # torch calls the hooks of one point in the order they were added: keep is the last
        logits = model.run_with_hooks(torch.tensor([tokens]), return_type="logits",
                                      fwd_hooks=[*hooks, *map(keep, names)])
        return logits[0], got

    def base(self, tokens, folded=False):
        key = (tuple(tokens), folded)
        if key not in self.caches:
            self.caches[key] = self.run(tokens, folded=folded)
        return self.caches[key]

    def check(self, tokens):
        """The references agree with each other, and the hooks mean what mi's sites mean."""
        hf = self.hf(torch.tensor([tokens])).logits[0]
        tl, got = self.base(tokens)
        folded, _ = self.base(tokens, folded=True)
        close(tl, hf, "transformer_lens and transformers")
        close(folded, centred(hf), "folded transformer_lens and transformers")
        for l in range(self.L):
            c_attn = got[hook_name("ln1", l)] @ self.weights[f"h.{l}.attn.c_attn.weight"] \
                + self.weights[f"h.{l}.attn.c_attn.bias"]
            close(got[hook_name("q", l)].flatten(1), c_attn[:, :self.D], "ln1 and q")
            close(got[hook_name("v", l)].flatten(1), c_attn[:, 2 * self.D:], "ln1 and v")
            close(got[hook_name("mlp_pre", l)], got[hook_name("ln2", l)]
                  @ self.weights[f"h.{l}.mlp.c_fc.weight"] + self.weights[f"h.{l}.mlp.c_fc.bias"],
                  "ln2 and mlp_pre")
        unembed = self.weights.get("lm_head.weight", self.weights["wte.weight"])
        close(got[hook_name("ln_f", 0)] @ unembed.T, hf, "ln_f and logits")


    def check_interventions(self, tokens):
        """transformers, hooked with torch's own hooks, agrees about a few interventions."""
        blocks, l = self.hf.transformer.h, self.L - 1

        def without_head(module, args):     # the input of c_proj is z, its heads side by side
            z = args[0].clone()
            z[:, 1:3, self.d:2 * self.d] = 0
            return (z,)

        def scaled(module, args, output):
            return 0.5 * output

        def mean(module, args, output):
            return output.mean(1, keepdim=True).expand_as(output)

        resid_pre = self.base(tokens)[1][hook_name("resid_pre", l)]

        def half_sum(module, args, output):     # attn_out such that resid_mid is halved
            return (0.5 * (output[0] - resid_pre), *output[1:])

        for edit, module, hook in (
                (("ablate", f"L{l}H1@1-2"), blocks[l].attn.c_proj, without_head),
                (("scale", "L0.mlp_out=0.5"), blocks[0].mlp, scaled),
                (("ablate", "L0.mlp_pre=mean"), blocks[0].mlp.c_fc, mean),
                (("scale", f"L{l}.ln2=0.5"), blocks[l].ln_2, scaled),
                (("scale", f"L{l}.resid_mid=0.5"), blocks[l].attn, half_sum),
                (("scale", "pos_embed=0.5"), self.hf.transformer.wpe, scaled)):
            before = hook is without_head
            handle = (module.register_forward_pre_hook(hook) if before
                      else module.register_forward_hook(hook))
            theirs = self.hf(torch.tensor([tokens])).logits[0]
            handle.remove()
            ours, _ = self.run(tokens, hooks_of(self, [edit], tokens, None))
            close(ours, theirs, f"transformer_lens and transformers under {edit}")


def close(a, b, what, tolerance=1e-9):
    error = (a - b).abs().max().item()
    assert error <= tolerance * max(1, b.abs().max().item()), f"{what} differ by {error}"


def centred(logits):
    return logits - logits.mean(-1, keepdim=True)


# ---- mi's addresses, read a second time ----

def numbers(text, n):
    """'*', '3', '-1', '2-4' -> list"""
    if text in ("*", "all"):
        return list(range(n))
    if match := re.fullmatch(r"(\d+)-(\d+)", text):
        return list(range(int(match[1]), int(match[2]) + 1))
    i = int(text)
    return [i + n if i < 0 else i]


def units(address, m):
    """-> [(site, layer, unit)]: unit is a head, a neuron, or None for the whole row"""
    if address in ("heads", "mlps", "attns", "resid"):
        address = dict(heads="L*H*", mlps="L*.mlp_out", attns="L*.attn_out",
                       resid="L*.resid_pre")[address]
    for site, l in places(m):
        if address == hook_name(site, l) and site not in NOT_HOOKS:
            return [(site, l, None)]
    if address in OUTSIDE:
        return [(address, 0, None)]
    if match := re.fullmatch(r"L([\d*-]+)H([\d*-]+)(?:\.(z|q|k|v|pattern|scores))?", address):
        site = match[3] or "z"
        return [(site, l, h) for l in numbers(match[1], m.L) for h in numbers(match[2], m.H)]
    if match := re.fullmatch(r"L([\d*-]+)N([\d*-]+)", address):
        return [("mlp_post", l, i) for l in numbers(match[1], m.L) for i in numbers(match[2], m.F)]
    if match := re.fullmatch(r"L([\d*-]+)\.(\w+)", address):
        assert match[2] in SITES and match[2] not in OUTSIDE, address
        return [(match[2], l, None) for l in numbers(match[1], m.L)]
    raise ValueError(address)


def all_units(like, m):
    """Every unit of the kind of `like`, for not:"""
    site, _, unit = like
    if unit is None:
        return [(site, l, None) for l in range(m.L)]
    n = m.F if site == "mlp_post" else m.H
    return [(site, l, u) for l in range(m.L) for u in range(n)]


def parse(op, argument, m, n):
    """-> [(site, layer, unit, rows or None, keys or None)], value"""
    value = None
    if "=" in argument:
        argument, value = argument.rsplit("=", 1)
    if argument.startswith("not:"):
        named = [u for part in argument[4:].split(",") for u in units(part, m)]
        cells = [(*u, None, None) for u in all_units(named[0], m) if u not in named]
        assert cells, argument
        return cells, value
    cells = []
    for element in argument.split(","):
        address, _, pos = element.partition("@")
        keys = None
        if ":" in pos:
            pos, keys = pos.split(":")
            keys = numbers(keys, n)
        rows = numbers(pos, n) if pos and pos not in ("*", "all") else None
        cells += [(*u, rows, keys) for u in units(address, m)]
    if op == "knockout":
        cells = [("scores", *cell[1:]) for cell in cells]
    assert all(cell[4] is None or SITES[cell[0]][0] == "K" for cell in cells), argument
    return cells, value


# ---- Interventions as hooks ----

def mask_of(cell, shape, n, op):
    """The entries of a value of this shape (no batch) that the cell covers. Rows from n on are
    those of generated tokens."""
    site, _, unit, rows, keys = cell
    mask = torch.zeros(shape, dtype=torch.bool)
    T = shape[1] if SITES[site][0] == "K" else shape[0]
    if rows is None:
        rows = range(n if op in ("patch", "freeze") else T)
    for t in rows:
        if SITES[site][0] == "K":
            for key in range(t + 1):
                if keys is None or key in keys:
                    mask[slice(None) if unit is None else unit, t, key] = True
        elif unit is None:
            mask[t] = True
        else:
            mask[t, unit] = True
    assert mask.any(), f"{op} of {cell} touches nothing"
    return mask


def put(site, x, new):
    """What a hook of transformer_lens returns. In TransformerBridge a new tensor at resid_mid would
    reach ln2 alone: that value is written where the residual stream reads it too."""
    return x.copy_(new[None]) if site == "resid_mid" else new[None]


def grown(value, like):
    """Pads with zeros up to the rows that generation added; they are masked out."""
    out = torch.zeros_like(like)
    out[tuple(slice(0, k) for k in value.shape)] = value
    return out


def hooks_of(m, edits, tokens, source, texts=(), folded=False):
    """The command line's edits -> hooks of transformer_lens, in order"""
    n, hooks = len(tokens), []
    _, own = m.base(tokens, folded)
    donor = m.base(source, folded)[1] if source else None
    toward_away = [m.base(text)[1] for text in texts]
    for op, argument in edits:
        cells, value = parse(op, argument, m, n)
        assert value is None or op in ("ablate", "patch", "scale", "steer")
        for cell in cells:
            name = hook_name(cell[0], cell[1])

            def edit(x, hook, op=op, value=value, cell=cell, name=name):
                old = x[0]
                mask = mask_of(cell, old.shape, n, op)
                if op == "ablate" and value in (None, "zero", "tlzero"):
                    assert folded == (value == "tlzero")
                    new = torch.zeros_like(old)
                elif op == "ablate" and value == "mean":
                    assert SITES[cell[0]][0] != "K"
                    new = own[name].mean(0, keepdim=True).expand_as(old)
                elif op == "patch":
                    new = old + float(value or 1) * (grown(donor[name], old) - old)
                elif op == "freeze":
                    new = grown(own[name], old)
                elif op == "knockout":
                    new = torch.full_like(old, -torch.inf)
                elif op == "scale":
                    new = float(value) * old
                else:
                    toward, away = (text[name][-1] for text in toward_away)
                    direction = toward - away
                    if cell[2] is not None:     # only this head's part of the row
                        part = mask_of((*cell[:3], None, None), direction[None].shape, 1, op)[0]
                        direction = torch.where(part, direction, torch.zeros_like(direction))
                    if op == "steer":
                        new = old + float(value) * direction
                    else:
                        assert op == "project"
                        unit = direction.flatten() / direction.norm()
                        along = old.flatten(1) @ unit
                        new = old - (along[:, None] * unit).reshape(old.shape)
                return put(cell[0], x, torch.where(mask, new, old))

            hooks.append((name, edit))
    return hooks


# ---- Writing a golden file ----

class Golden:
    def __init__(self, name, path, m, model_file=None, kind="golden"):
        self.m, self.records = m, 0
        self.file = open(os.path.join(HERE, f"{name}.{kind}"), "wb")
        with open(model_file or os.path.join(ROOT, path), "rb") as file:
            fnv = 0xcbf29ce484222325
            for byte in file.read():
                fnv = (fnv ^ byte) * 0x100000001b3 & 0xffffffffffffffff
        self.line(f"model {path} {fnv:016x}")

    def line(self, text):
        self.file.write(text.encode() + b"\n")

    def close(self):
        self.line(f"end {self.records}")
        print(f"{self.file.name}: {self.records} records, {self.file.tell()} bytes", flush=True)
        self.file.close()

    def record(self, by, tokens, source=None, edits=(), texts=()):
        self.records += 1
        self.line(f"by {by}")
        for name, rows in zip(("tokens", "source", "toward", "away"), (tokens, source, *texts)):
            if rows:
                self.line(" ".join(map(str, [name, len(rows), *rows])))
        for op, argument in edits:
            self.line(f"edit {op} {argument}")

    def compare(self, what, layer, values):
        values = torch.as_tensor(values, dtype=torch.float64).flatten()
        assert not values.isnan().any(), f"{what} {layer}: the reference itself is NaN"
        self.line(f"compare {what} {layer} {len(values)}")
        self.file.write(values.numpy().astype("<f4").tobytes() + b"\n")

    def compare_site(self, site, layer, got):
        value = got[hook_name(site, layer)]
        if SITES[site][0] == "K":       # [H, T, T] -> [position][head][key <= position]
            value = torch.cat([value[:, t, :t + 1].flatten() for t in range(value.shape[1])])
        self.compare(site, layer, value)

    def whole_model(self, tokens, every_logit=True):
        """transformers: logits and loss"""
        out = self.m.hf(torch.tensor([tokens]), labels=torch.tensor([tokens]))
        self.m.check(tokens)
        self.record("transformers", tokens)
        if every_logit:
            self.compare("logits", 0, out.logits[0])
        else:
            self.compare("last", 0, out.logits[0, -1])
        if len(tokens) > 1:
            self.compare("loss", 0, [out.loss])

    def greedy(self, tokens, n_new, edits=(), source=None, at_least=12):
        """Greedy text, cut where the choice is nearly a tie."""
        if not edits:
            out = self.m.hf.generate(torch.tensor([tokens]), max_new_tokens=n_new, do_sample=False)
            ours = out[0, len(tokens):].tolist()
        rows = list(tokens)
        hooks = hooks_of(self.m, edits, tokens, source)
        for i in range(n_new):
            logits = self.m.run(rows, hooks)[0][-1]
            best = logits.topk(2).values
            if best[0] - best[1] < 1e-3:
                assert i >= at_least, f"nearly a tie at token {i} after {tokens}"
                break
            rows.append(int(logits.argmax()))
        new = rows[len(tokens):]
        assert edits or new == ours[:len(new)], "the references generate different text"
        self.record("transformer_lens" if edits else "transformers", tokens, source, edits)
        self.compare("greedy", 0, new)
        return new

    def every_site(self, tokens):
        self.record("transformer_lens", tokens)
        _, got = self.m.base(tokens)
        for site, layer in places(self.m):
            self.compare_site(site, layer, got)

    def lens(self, tokens):
        """What the unembedding would read from the residual stream of the last position"""
        _, got = self.m.base(tokens)
        points = [(site, l) for l in range(self.m.L) for site in ("resid_pre", "resid_mid")]
        points.append(("resid_post", self.m.L - 1))
        self.record("transformer_lens", tokens)
        values = [got[hook_name(*point)][-1] for point in points]
        ln, unembed = self.m.tl.ln_final, self.m.tl.unembed
        read = lambda x: unembed(ln(x[None, None]))[0, 0]
        mean, scale = values[-1].mean(), got["ln_final.hook_scale"][-1]
        read_final = lambda x: unembed(((x - mean) / scale * ln.w + ln.b)[None, None])[0, 0]
        close(read_final(values[-1]), self.m.base(tokens)[0][-1], "the lens' end and the logits")
        self.compare("lens", 0, torch.stack([read(x) for x in values]))
        self.compare("lens_final", 0, torch.stack([read_final(x) for x in values]))

    def intervene(self, edits, tokens, source=None, sites=(), logits="logits", texts=()):
        folded = any(argument.endswith("=tlzero") for _, argument in edits)
        hooks = hooks_of(self.m, edits, tokens, source, texts, folded)
        out, got = self.m.run(tokens, hooks, folded)
        if folded:
            self._check_tlzero(edits, tokens, source, out)
        used = source if any(op == "patch" for op, _ in edits) else None
        by = "transformer_lens folded" if folded else "transformer_lens"
        self.record(by, tokens, used, edits, texts)
        if folded:
            logits = "last_centred" if logits == "last" else "centred"
        self.compare(logits, 0, out[-1] if logits.startswith("last") else out)
        for site, layer in sites:
            self.compare_site(site, layer, got)

    def _check_tlzero(self, edits, tokens, source, folded_logits):
        """The definition, in raw values: z and v become b_V + W_V' beta, a LayerNorm's output
        beta, everything else 0. It must be the same as a zero in the folded model."""
        m, hooks = self.m, []
        for op, argument in edits:
            if not argument.endswith("=tlzero"):
                hooks += hooks_of(m, [(op, argument)], tokens, source)
                continue
            for cell in parse(op, argument, m, len(tokens))[0]:
                site, l = cell[:2]

                def edit(x, hook, site=site, l=l, cell=cell):
                    w, new = m.weights, torch.zeros_like(x[0])
                    if site in ("z", "v"):
                        c_attn = w[f"h.{l}.ln_1.bias"] @ w[f"h.{l}.attn.c_attn.weight"] \
                            + w[f"h.{l}.attn.c_attn.bias"]
                        new = new + c_attn[2 * m.D:].reshape(m.H, m.d)
                    elif site in ("ln1", "ln2", "ln_f"):
                        new = new + w["ln_f.bias" if site == "ln_f" else f"h.{l}.ln_{site[2]}.bias"]
                    mask = mask_of(cell, x[0].shape, len(tokens), op)
                    return put(site, x, torch.where(mask, new, x[0]))

                hooks.append((hook_name(site, l), edit))
        raw_logits, _ = m.run(tokens, hooks)
        close(centred(raw_logits), folded_logits, f"{edits}: tlzero and its definition")


    def sweep(self, function, argument, tokens, source, answer, versus, order=None):
        """All patches of one kind. order: the function's axes in the order of the argument's"""
        self.record(function, tokens, source)
        self.line(f"answer {answer}")
        self.line(f"versus {versus}")
        self.line(f"sweep patch {argument}")
        donor = self.m.tl.run_with_cache(torch.tensor([source]))[1]
        metric = lambda logits: logits[0, -1, answer] - logits[0, -1, versus]
        cells = getattr(patching, function)(self.m.tl, torch.tensor([tokens]), donor, metric)
        cells = cells.permute(order) if order else cells
        assert cells.dim() == argument.count("*")
        self.line(" ".join(map(str, ["axes", *cells.shape])))
        self.compare("cells", 0, cells)


# ---- What is asked ----

def addresses(site, m, n, rng):
    """An address of the whole value, and one of a part of it"""
    l = int(rng.integers(m.L))
    t, u = int(rng.integers(1, n)), int(rng.integers(1, n - 2))
    pos = str(rng.choice([f"@{t}", "@-1", f"@{u}-{u + 1}", f"@-{min(t, n - 1)}", "@all"],
                         p=[.3, .15, .3, .15, .1]))
    if site in OUTSIDE:
        whole = part = site
    else:
        whole = part = f"L{l}.{site}"
        if site not in NOT_HOOKS and rng.random() < 0.3:
            whole = hook_name(site, l)
    width = SITES[site][0]
    if width in "HK":
        h = int(rng.integers(m.H))
        part = f"L{l}H{h}" + ("" if site == "z" and rng.random() < 0.6 else "." + site)
        if rng.random() < 0.25:
            h = max(h, 1)
            part = f"L{l}H{h - 1}-{h}.{site}"
    if width == "K" and rng.random() < 0.7:
        q = int(rng.integers(2, n))
        key, late = int(rng.integers(q)), int(rng.integers(1, n - 1))
        pos = str(rng.choice([f"@{q}:{key}", f"@*:{late}", f"@{q}:*", "@-1:0", f"@{q}:0-{q - 1}"]))
    if site == "mlp_post":
        i = int(rng.integers(m.F - 9))
        part = str(rng.choice([f"L{l}N{i}", f"L{l}N{i}-{i + 8}", f"L{l}N*"], p=[.3, .5, .2]))
    return l, whole, part + pos


def interventions(m, n, rng):
    """-> [(edits, sites worth looking at)]: each op at each site, whole and in part"""
    records = []
    for site in SITES:
        for op in "zero", "mean", "patch", "mix", "scale":
            if op == "zero" and site.endswith("_scale") or op == "mean" and SITES[site][0] == "K":
                continue
            l, whole, part = addresses(site, m, n, rng)
            factor = rng.choice(["0.3", "2.5", "0.75"] if site.endswith("_scale")
                                else ["-1.5", "0.3", "2.5", "0", "1e-1"])
            for address in whole, part:
                edit = {"zero": ("ablate", address + str(rng.choice(["", "=zero"]))),
                        "mean": ("ablate", address + "=mean"),
                        "patch": ("patch", address),
                        "mix": ("patch", address + str(rng.choice(["=0.5", "=0.2", "=-1"]))),
                        "scale": ("scale", f"{address}={factor}")}[op]
                look = [(site, 0 if site in OUTSIDE else l)] if rng.random() < 0.25 else []
                if rng.random() < 0.1:
                    look.append(("resid_post", m.L - 1))
                records.append(([edit], look))
    return records


def combinations(m, n):
    """Several edits, knockouts, lists, ranges, freezing. -> [(edits, sites)]"""
    a, b = 0, m.L - 1                   # the first and the last layer; they may be the same
    h, i = m.H - 1, m.F - 1
    q = n - 2
    lines = [
        # one edge, one column, one row; a query that may look nowhere has pattern 0
        (f"knockout L{b}H0@{q}:2", ["scores", "pattern"]),
        (f"knockout L{b}H{h}@*:1", ["pattern"]),
        (f"knockout L{a}H*@-1:0", []),
        ("knockout L*H*@-1:1", []),
        (f"knockout heads@{q}:1-2", ["z"]),
        (f"knockout L{b}H{h}@3:*", ["pattern", "z"]),
        ("knockout L*H0@*:*", ["pattern", "z"]),
        (f"knockout L{a}H0@2:1,L{b}H1@-1:3", []),
        (f"knockout L{a}H0@2:1; ablate L{b}H1@2", []),
        # lists, ranges, complements, short names
        (f"ablate L{a}H1,L{b}H{h}@-1,L{b}H0", []),
        ("ablate L*H*=mean", []), ("ablate heads@2=mean", []), ("ablate mlps", []),
        ("ablate attns@1-3=mean", []), ("patch resid@2", []), ("patch L*.mlp_out@*", []),
        (f"ablate not:L{a}H1" + (f",L{b}H0" if b else ""), ["z"]),
        (f"ablate not:L{b}H{h}=mean", []),
        (f"ablate not:L{a}N0-{i - 5}", ["mlp_post"]),
        (f"scale not:L{b}.mlp_out=0.5", []) if m.L > 1 else None,
        (f"ablate L*N{i}@-2", []), (f"scale L0-{b}H0-1.v=1.25", []),
        # several edits in command order, at one site in both orders
        (f"scale L{b}.mlp_out=2; patch L{b}.mlp_out=0.5", ["mlp_out"]),
        (f"patch L{b}.mlp_out=0.5; scale L{b}.mlp_out=2", ["mlp_out"]),
        (f"ablate L{b}H0.v=mean; scale L{b}H0.v=-1", ["v"]),
        (f"scale L{b}H0.v=-1; ablate L{b}H0.v=mean", ["v"]),
        (f"ablate L{a}.resid_mid@3; patch L{a}.resid_mid@2-4=0.5", []),
        (f"patch L{a}.resid_mid@2-4=0.5; ablate L{a}.resid_mid@3", []),
        (f"ablate L{a}H1.pattern@{q}:*; patch L{a}H1.pattern=0.5", ["pattern"]),
        (f"patch L{a}H1.pattern=0.5; ablate L{a}H1.pattern@{q}:*", ["pattern"]),
        (f"scale L{b}H0.scores=0.5; knockout L{b}H0@{q}:2", ["pattern"]),
        (f"knockout L{b}H0@{q}:2; ablate L{b}H0.scores@{q}:1-3", ["pattern"]),
        (f"ablate L{b}H0.scores@{q}:1-3; knockout L{b}H0@{q}:2", ["pattern"]),
        (f"ablate L{a}N0-7; ablate L{a}N4-9=mean; scale L{a}N2-5=3", ["mlp_post"]),
        ("scale embed=2; freeze embed@2", ["embed"]),
        ("freeze embed@2; scale embed=2", ["embed"]),
        (f"ablate L{a}H0; patch L{b}.mlp_out@2; scale ln_f=0.7", []),
        (f"scale ln_f=0.7; patch L{b}.mlp_out@2; ablate L{a}H0", []),
        (f"ablate pos_embed@-1; patch L{a}H1.q@3; ablate L{b}H0.k=mean; patch L{b}.ln2@1-2=0.5",
         []),
        # one site, another edit in each layer
        (f"patch L{a}.resid_mid@2; scale L{b}.resid_mid=0.5", []),
        (f"ablate L{a}H0@3-4=mean; patch L{b}H0@1-2; knockout L{a}H1@4:2; "
         f"scale L{b}H1.scores=2", []),
        # rows so small that LayerNorm's epsilon counts
        (f"scale L{a}.resid_pre=0.01", ["ln1_scale"]), (f"scale L{b}.resid_mid=0.01", ["ln2"]),
        (f"scale L{b}.resid_post=0.01", ["ln_f_scale", "ln_f"]),
        # freezing what an upstream edit would have changed
        (f"ablate L{a}H1; freeze L*.ln1_scale,L*.ln2_scale,ln_f_scale", []),
        ("ablate embed@1; freeze L*.ln1_scale,L*.ln2_scale,ln_f_scale", []),
        ("ablate embed@1; freeze heads", ["z"]), ("scale pos_embed=0.5; freeze mlps", []),
        (f"scale pos_embed@1=-2; freeze L{b}H*.pattern", ["pattern"]),
        (f"patch L{a}.resid_pre; freeze L{b}.attn_out@2-4", ["attn_out"]),
        (f"patch L{a}.resid_pre@2; freeze L*H*.scores@-1", []),
        (f"patch L{a}.resid_pre@2; freeze blocks.{b}.attn.hook_pattern", []),
    ] + [(f"patch embed@1-3; freeze {site if site in OUTSIDE else f'L{b}.{site}'}{pos}", [])
         for site, pos in zip(SITES, ["@2", "@1", "@3-4", "", "@-1", "", "", "@4", "@4:*",
                                      "@-1:0-2", "", "@-2", "", "@3", "", "@2-3", "", "@-1", "@*",
                                      "@2", "@-2"])]
    return [([tuple(edit.split(" ", 1)) for edit in line[0].split("; ")],
             [(site, 0 if site in OUTSIDE else b) for site in line[1]]) for line in lines if line]


def tlzeros(m, n):
    a, b, h = 0, m.L - 1, m.H - 1
    lines = [f"L{b}H0", f"L{a}H{h}.z@-1", f"L{a}H1@2-3", f"L{b}.z", "L*H*@3", f"not:L{b}H{h}",
             f"L{a}H0.v", f"L{b}H{h}.v@1", f"L{b}.v@2-4", f"L{a}H1.q@-1", f"L{b}H0.k",
             f"L{b}.mlp_out", f"L{a}.mlp_out@2", "mlps", f"L{b}.attn_out@-1", f"L{a}.attn_out",
             "attns", f"L{a}.ln1@3", f"L{b}.ln1", f"L{b}.ln2@-1", f"L{a}.ln2", "ln_f@2", "ln_f",
             f"L{a}N1-5", f"L{b}.mlp_post@2", f"L{b}.mlp_pre@-1", f"L{b}.resid_pre@1",
             f"L{a}.resid_mid@2-3", f"L{b}.resid_post@-1", "embed@2", "pos_embed",
             f"blocks.{b}.attn.hook_z@4", f"L{a}H0,L{b}H1@-1"]
    records = [[("ablate", line + "=tlzero")] for line in lines]
    records.append([("ablate", f"L{a}H0=tlzero"), ("patch", f"L{b}.mlp_out@2-3"),
                    ("ablate", f"L{b}H1=tlzero")])
    return records + [[("ablate", f"L{b}H0=tlzero"), ("patch", f"L{b}H0@1=0.5")]]


def generations(m, n):
    """Edits that hold while new tokens are made: without @POS for the new ones too (but patch and
    freeze never), with @POS for those prompt positions only."""
    a, b, h = 0, m.L - 1, m.H - 1
    lines = [f"ablate L{b}H0", f"ablate L{b}H{h}@1-2", f"ablate L{a}.mlp_out=mean",
             "scale L*.attn_out=0.5", "scale embed@-1=-1", f"patch L{a}.mlp_out",
             f"patch L{b}.attn_out@2-3=0.5; ablate L{a}N0-9", f"knockout L{a}H0@2:1",
             f"ablate L{a}H1; freeze L{b}.mlp_out"]
    return [[tuple(edit.split(" ", 1)) for edit in line.split("; ")] for line in lines]


def directions(m, n):
    """Steering and projecting, along the difference of two texts' last tokens"""
    a, b, h = 0, m.L - 1, m.H - 1
    lines = [f"steer L{a}.resid_pre=3", f"steer L{b}.resid_mid@2=-1.5",
             f"steer L{b}.attn_out@-1=2", "steer embed@1-2=1", f"steer L{b}H{h}@2-4=4",
             f"steer L{a}.mlp_post=0.5", "steer ln_f=0.25", f"project L{a}.resid_pre",
             f"project L{b}.resid_post@-1", f"project L{b}.mlp_out@1-3", f"project L{a}H0.v",
             f"project L{b}H{h}.z@-1", "project ln_f@2",
             f"steer L{b}.resid_pre=2; project L{b}.resid_pre@2",
             f"project L{b}.resid_pre@2; steer L{b}.resid_pre=2",
             f"ablate L{a}H0; steer L{b}.resid_mid@1=1; scale L{b}.mlp_out=0.5"]
    return [[tuple(edit.split(" ", 1)) for edit in line.split("; ")] for line in lines]


def random_model(name):
    spec = MODELS[name]
    write_model(name, spec)
    path = os.path.join(ROOT, model_path(name))
    beside = os.path.join(os.path.dirname(path), "config.json")
    m = References(path, beside if spec["heads"] == "config" else None)
    assert all(getattr(m, key) == spec[key] for key in ("L", "H", "d", "V", "n_ctx"))
    rng = np.random.default_rng(1000 + spec["seed"])
    prompt = lambda n: rng.integers(m.V, size=n).tolist()
    golden, n = Golden(name, model_path(name), m), spec["n"]
    for length in 1, 2, n, m.n_ctx:
        golden.whole_model(prompt(length))
    for length in 1, 4, n - 1:
        golden.greedy(prompt(length), min(14, m.n_ctx - length))
    tokens, source = prompt(n), prompt(n)
    m.check(tokens)
    m.check_interventions(tokens)
    golden.every_site(tokens)
    some = lambda records, share: [record for record in records if rng.random() < share]
    for edits, sites in some(interventions(m, n, rng), spec["full"]) + combinations(m, n):
        golden.intervene(edits, tokens, source, sites)
    for edits in some(tlzeros(m, n), 2 * spec["full"]):
        golden.intervene(edits, tokens, source)
    for edits in generations(m, n):
        golden.greedy(tokens, min(8, m.n_ctx - n), edits, source, at_least=4)
    texts = prompt(n - 2), prompt(n + 1)
    for edits in some(directions(m, n), 2 * spec["full"]):
        golden.intervene(edits, tokens, source, texts=texts)
    for length in 1, n:
        golden.lens(prompt(length))
    return golden


# ---- tiny ----

PROMPTS = [         # prompt, donor of the same length
    ("When Mary and John went to the store, John gave a drink to",
     "When Mary and John went to the store, Mary gave a drink to"),
    ("The Eiffel Tower is in the city of", None),
    ("The keys to the cabinet", None),
    ("Monday, Tuesday, Wednesday,", None),
]


STEERING = "I love this", "I hate this"       # toward, away


def tiny_words(tokenizer_path, vocab_ids):
    """-> a function text -> rows: GPT-2's tokenizer with only the merges of vocab_ids"""
    import regex
    with open(tokenizer_path, "rb") as file:
        data = file.read()
    n_ranges, n_tokens = sum(struct.unpack("<3I", data[8:20])), struct.unpack("<I", data[20:24])[0]
    at, rank = 24 + 8 * n_ranges, {}
    for i in range(n_tokens):
        rank[data[at + 1:at + 1 + data[at]]] = i
        at += 1 + data[at]
    row = {token: row for row, token in enumerate(vocab_ids or range(n_tokens))}
    rank = {token: i for token, i in rank.items() if i in row}
    pattern = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+"
                            r"|\s+(?!\S)|\s+")

    def encode(text):
        rows = []
        for word in pattern.findall(text):
            parts = [bytes([byte]) for byte in word.encode()]
            while len(parts) > 1:
                best, i = min((rank.get(x + y, n_tokens), i)
                              for i, (x, y) in enumerate(zip(parts, parts[1:])))
                if best == n_tokens:
                    break
                parts[i:i + 2] = [parts[i] + parts[i + 1]]
            rows += [row[rank[part]] for part in parts]
        return rows
    return encode


def tiny(path, tokenizer_path):
    m = References(path)
    encode = tiny_words(tokenizer_path, m.vocab_ids)
    golden = Golden("tiny", "tiny.safetensors", m, path)
    b, h = m.L - 1, min(3, m.H - 1)
    for text, _ in PROMPTS:
        tokens = encode(text)
        golden.whole_model(tokens, every_logit=False)
        golden.greedy(tokens, 12, at_least=0)
    tokens, source = (encode(text) for text in PROMPTS[0])
    assert len(tokens) == len(source)
    s2 = max(t for t in range(len(tokens)) if tokens[t] != source[t])
    _, got = m.base(tokens)
    golden.record("transformer_lens", tokens)
    for layer in range(m.L):
        golden.compare_site("resid_post", layer, got)
    golden.compare_site("pattern", b, got)
    for line in (f"ablate L{b}H{h}", f"ablate L{b}H{h}=mean", "ablate L*H0@-1=mean",
                 "ablate mlps@-1", f"patch L{b}H{h}", f"patch L*.resid_pre@{s2}",
                 f"patch L1H*.v@{s2}=0.5", "patch L2.mlp_out", f"patch L{b}H*.pattern@-1",
                 f"scale L{b}H{h}@-1=2", "scale embed@1=0.5", "knockout L*H*@-1:1",
                 f"knockout L{b}H{h}@*:{s2}", f"patch L0.resid_pre@{s2}; freeze L{b}H{h}",
                 "ablate L0H0; freeze L*.ln1_scale,L*.ln2_scale,ln_f_scale",
                 f"ablate not:L{b}H{h}=mean", f"ablate L{b}H{h}=tlzero", "ablate heads@-1=tlzero",
                 f"ablate L{b}.mlp_out=tlzero"):
        edits = [tuple(edit.split(" ", 1)) for edit in line.split("; ")]
        golden.intervene(edits, tokens, source, logits="last")
    texts = tuple(encode(text) for text in STEERING)
    for line in "steer L2.resid_pre=2", f"steer L{b}H{h}@-1=1", "project L3.resid_mid":
        golden.intervene([tuple(line.split(" ", 1))], encode(PROMPTS[1][0]), logits="last",
                         texts=texts)
    return golden


# ---- Sweeps ----

SWEPT = "odd7", "brain11"       # and tiny
BY_POS = (0, 2, 1)              # transformer_lens: layer, position, head
TABLES = [                      # function get_act_patch_..., mi's argument, order of the axes
    ("resid_pre", "L*.resid_pre@*", None), ("resid_mid", "L*.resid_mid@*", None),
    ("attn_out", "L*.attn_out@*", None), ("mlp_out", "L*.mlp_out@*", None),
    *((f"attn_head_{'out' if x == 'z' else x}_by_pos", f"L*H*.{x}@*", BY_POS) for x in "zqkv"),
    *((f"attn_head_{'out' if x == 'z' else x}_all_pos", f"L*H*.{x}", None) for x in "zqkv"),
    ("attn_head_pattern_all_pos", "L*H*.pattern", None),
    ("attn_head_pattern_by_pos", "L*H*.pattern@*", None),
]
EDGES = [("attn_head_pattern_dest_src_pos", "L*H*.pattern@*:*", None)]      # many cells


def sweeps(name, path, m, model_file, prompts, answers, tables):
    """Both ways: the donor restores what the prompt lost, or spoils what it has."""
    golden = Golden(name, path, m, model_file, kind="sweeps")
    for tokens, source in (prompts, prompts[::-1]):
        for function, argument, order in tables:
            golden.sweep("get_act_patch_" + function, argument, tokens, source, *answers, order)
    golden.close()


def random_sweeps(name):
    spec = MODELS[name]
    path = os.path.join(ROOT, model_path(name))
    m, rng = References(path), np.random.default_rng(2000 + spec["seed"])
    tokens = rng.integers(m.V, size=spec["n"] - 1).tolist()
    source = [int(rng.integers(m.V)) if t in (2, 3, len(tokens) - 2) else token
              for t, token in enumerate(tokens)]        # equal elsewhere: such patches do nothing
    answers = rng.choice(m.V, size=2, replace=False).tolist()
    sweeps(name, model_path(name), m, path, (tokens, source), answers, TABLES + EDGES)


def tiny_sweeps(path, tokenizer_path):
    m = References(path)
    encode = tiny_words(tokenizer_path, m.vocab_ids)
    prompts = tuple(encode(text) for text in PROMPTS[0])
    answers = [encode(text)[0] for text in (" Mary", " John")]
    sweeps("tiny", "tiny.safetensors", m, path, prompts, answers, TABLES)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=[*MODELS, "tiny"])
    parser.add_argument("--tiny", default=os.path.join(ROOT, "tiny.safetensors"))
    parser.add_argument("--tokenizer", default=os.path.join(ROOT, "tokenizer.bin"))
    args = parser.parse_args()
    for name in [args.only] if args.only else [*MODELS, "tiny"]:
        golden = tiny(args.tiny, args.tokenizer) if name == "tiny" else random_model(name)
        golden.close()
        if name == "tiny":
            tiny_sweeps(args.tiny, args.tokenizer)
        elif name in SWEPT:
            random_sweeps(name)


if __name__ == "__main__":
    main()
