#!/usr/bin/env python3
"""How long the same questions take in mi, in transformers and in transformer_lens, on this machine.

    python3 train/peers.py                      GPT-2 124M's shape, about eight minutes
    python3 train/peers.py --isa avx2 --mi FILE  as on a processor without AVX-512: FILE is mi
                                                 built with make ARCH='-mavx2 -mfma'
    python3 train/peers.py --layers 2 --heads 2 --width 64 --repeats 1       tries the script

needs: pip install torch numpy transformers 'transformer_lens>=4.3', and ./mi

All three load the same random float32 weights, from one file in the published shape, in a
temporary directory. It prints a Markdown table. How the times are taken:
  mi           wall clock of the program, less what it does besides: for prefill, from 1 to more
               rows of --data, per row; for decoding, from 1 to more tokens of -n, per token; for
               sweeps, less the same command with no cell or one instead of --each: opening the model,
               running the prompt and its source. So weights are in memory for all three.
  the others   in the process, imports and loading excluded (but for the first row), without
               gradients. transformers computes the last position's logits, where it can;
               transformer_lens (its TransformerBridge, without weight processing) always computes
               all of them. Patches in transformer_lens are those of transformer_lens.patching; in
               transformers, torch's hooks.
  sweeps       of the others run an evenly spread sample of the cells (--cells), and are scaled up.
Each number is a median of --repeats, after a run that does not count. That all three compute the
same numbers is checked. --clock cpu counts processor time, not wall clock: what one thread would
take on a machine that is not shared, measured on one that is.
"""
import argparse
import json
import os
import random
import resource
import struct
import subprocess
import sys
import tempfile
import time
from statistics import median

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
V, N_CTX = 50257, 1024
NEW = 48                        # tokens that are decoded
LONG = 256                      # a longer prompt


def write_model(folder, L, H, D):
    """Random weights in GPT-2's file: names, shapes, mask buffers, and tensors at odd addresses."""
    import numpy as np
    rng = np.random.default_rng(1)
    shapes = {"wte.weight": (V, D), "wpe.weight": (N_CTX, D)}
    for l in range(L):
        h = f"h.{l}."
        shapes[h + "attn.bias"] = (1, 1, N_CTX, N_CTX)
        for ln in "ln_1", "ln_2":
            shapes[h + ln + ".weight"] = shapes[h + ln + ".bias"] = (D,)
        for part, n_in, n_out in (("attn.c_attn", D, 3 * D), ("attn.c_proj", D, D),
                                  ("mlp.c_fc", D, 4 * D), ("mlp.c_proj", 4 * D, D)):
            shapes[h + part + ".weight"], shapes[h + part + ".bias"] = (n_in, n_out), (n_out,)
    shapes["ln_f.weight"] = shapes["ln_f.bias"] = (D,)
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shapes.items():
        size = 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * ((3 - len(text)) % 8)
    with open(os.path.join(folder, "model.safetensors"), "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes.items():
            if name.endswith(".attn.bias"):
                array = np.tril(np.ones(shape[2:], np.float32))
            elif ".ln_" in name or name.startswith("ln_"):
                array = np.full(shape, float(name.endswith("weight")), np.float32)
            else:
                array = rng.standard_normal(shape, dtype=np.float32) * np.float32(0.02)
            file.write(array.tobytes())
    with open(os.path.join(folder, "config.json"), "w") as file:
        json.dump({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_layer": L,
                   "n_head": H, "n_embd": D, "vocab_size": V, "n_positions": N_CTX}, file)


def processor_time():           # of this process and of those that it has waited for
    return sum(sum(resource.getrusage(who)[:2])
               for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def timed(function, repeats, clock="wall"):
    now = time.perf_counter if clock == "wall" else processor_time
    function()
    seconds = []
    for _ in range(repeats):
        start = now()
        function()
        seconds.append(now() - start)
    return median(seconds)


# ---- The peers: python3 peers.py --child NAME ..., prints its times as JSON ----

def load(name, folder):
    from transformers import GPT2LMHeadModel
    if name == "transformers":
        return GPT2LMHeadModel.from_pretrained(folder).eval()
    from transformer_lens.model_bridge import TransformerBridge
    hf = GPT2LMHeadModel.from_pretrained(folder, attn_implementation="eager")   # as it loads them
    return TransformerBridge.boot_transformers(folder, hf_model=hf, device="cpu").eval()


def first_token(name, folder, tokens):
    import torch
    torch.set_grad_enabled(False)
    model = load(name, folder)
    out = model(torch.tensor([tokens]))
    print(int((out.logits if name == "transformers" else out)[0, -1].argmax()))


def sample(cells, n):
    """n of the cells, evenly spread over all of them"""
    n = min(n, len(cells))
    return [cells[int((i + 0.5) * len(cells) / n)] for i in range(n)]


def of_transformers(model, tokens, source, answers, n_cells):
    """-> the functions to time, and how much each has to be scaled"""
    import torch
    L, H, T = model.config.n_layer, model.config.n_head, len(tokens)
    d = model.config.n_embd // H
    ids, blocks = torch.tensor([tokens]), model.transformer.h
    heads = [(l, h) for l in range(L) for h in range(H)]
    places = [(l, t) for l in range(L) for t in range(T)]
    vectors = [(l, h, t) for l in range(L) for h in range(H) for t in range(T)]

    def metric(ids=ids):
        logits = model(ids, use_cache=False, logits_to_keep=1).logits[:, -1]
        return logits[:, answers[0]] - logits[:, answers[1]]

    got = {}                    # the source's activations

    def keep(key):
        def hook(module, args):
            got[key] = args[0].clone()
        return hook
    handles = [module.register_forward_pre_hook(keep((site, l))) for l in range(L)
               for site, module in (("resid_pre", blocks[l]), ("z", blocks[l].attn.c_proj))]
    metric(torch.tensor([source]))
    for handle in handles:
        handle.remove()

    def with_hook(module, change):
        def hook(_, args):
            x = args[0].clone()
            change(x)
            return (x, *args[1:])
        handle = module.register_forward_pre_hook(hook)
        value = metric()
        handle.remove()
        return value

    def zero(l, h):
        def change(x):
            x[:, :, h * d:(h + 1) * d] = 0
        return with_hook(blocks[l].attn.c_proj, change)

    def resid_pre(l, t):
        def change(x):
            x[:, t] = got["resid_pre", l][:, t]
        return with_hook(blocks[l], change)

    def z(l, h, t):
        def change(x):
            x[:, t, h * d:(h + 1) * d] = got["z", l][:, t, h * d:(h + 1) * d]
        return with_hook(blocks[l].attn.c_proj, change)

    batch = ids.expand(H, -1)

    def zero_batch(l):          # all heads of a layer, each in a copy of the prompt
        def hook(_, args):
            x = args[0].clone()
            for h in range(H):
                x[h, :, h * d:(h + 1) * d] = 0
            return (x,)
        handle = blocks[l].attn.c_proj.register_forward_pre_hook(hook)
        value = metric(batch)
        handle.remove()
        return value

    def decode():
        out = model(ids, use_cache=True, logits_to_keep=1)
        for _ in range(NEW):
            token = out.logits[:, -1].argmax(-1, keepdim=True)
            out = model(token, past_key_values=out.past_key_values, use_cache=True)

    checked = [float(x) for x in (metric(), zero(L - 1, 0), resid_pre(L - 1, T - 1),
                                  z(L - 1, 0, T - 1))]
    each = lambda run, cells: (lambda: [run(*cell) for cell in cells])
    chosen = [sample(cells, n_cells) for cells in (heads, places, vectors)]
    layers = sample([(l,) for l in range(L)], 4)
    return {
        "prefill": (metric, 1),
        "prefill_long": (lambda: metric(torch.tensor([tokens * (LONG // T)])), 1),
        "decode": (decode, 1),
        "heads": (each(zero, chosen[0]), len(heads) / len(chosen[0])),
        "heads_batch": (each(zero_batch, layers), L / len(layers)),
        "resid_pre": (each(resid_pre, chosen[1]), len(places) / len(chosen[1])),
        "z": (each(z, chosen[2]), len(vectors) / len(chosen[2])),
    }, checked


def of_transformer_lens(model, tokens, source, answers, n_cells):
    import pandas as pd
    import torch
    from transformer_lens import patching
    patching.tqdm = list        # no progress bars
    L, H, T = model.cfg.n_layers, model.cfg.n_heads, len(tokens)
    ids = torch.tensor([tokens])
    cache = model.run_with_cache(torch.tensor([source]))[1]
    metric = lambda logits: logits[0, -1, answers[0]] - logits[0, -1, answers[1]]
    chosen = sample([(l, h) for l in range(L) for h in range(H)], n_cells)

    def ablate(l, h):
        def zero(z, hook):
            z[:, :, h] = 0
            return z
        hooks = [(f"blocks.{l}.attn.hook_z", zero)]
        return metric(model.run_with_hooks(ids, fwd_hooks=hooks)).item()

    def decode():
        logits, past = model(ids, return_type="logits_and_cache")
        for _ in range(NEW):
            logits, past = model(logits[:, -1].argmax(-1, keepdim=True), past_key_values=past,
                                 return_type="logits_and_cache")

    def patches(function, names, sizes):
        cells = [[]]
        for size in sizes:
            cells = [[*cell, i] for cell in cells for i in range(size)]
        some = sample(cells, n_cells)
        return lambda: patch(function, names, some), len(cells) / len(some)

    def patch(function, names, cells):
        return function(model, ids, cache, metric, index_axis_names=None,
                        index_df=pd.DataFrame(cells, columns=names))

    resid_pre = patching.get_act_patch_resid_pre, ["layer", "pos"]
    z = patching.get_act_patch_attn_head_out_by_pos, ["layer", "pos", "head"]
    checked = [metric(model(ids)).item(), ablate(L - 1, 0),
               patch(*resid_pre, [[L - 1, T - 1]]).item(), patch(*z, [[L - 1, T - 1, 0]]).item()]
    return {
        "prefill": (lambda: metric(model(ids)), 1),
        "prefill_long": (lambda: metric(model(torch.tensor([tokens * (LONG // T)]))), 1),
        "decode": (decode, 1),
        "heads": (lambda: [ablate(*cell) for cell in chosen], L * H / len(chosen)),
        "resid_pre": patches(*resid_pre, (L, T)),
        "z": patches(*z, (L, T, H)),
    }, checked


def child(args):
    import torch
    torch.set_grad_enabled(False)
    torch.set_num_threads(args.threads)
    model = load(args.child, args.folder)
    functions = of_transformers if args.child == "transformers" else of_transformer_lens
    asked = json.loads(args.asked)
    times = {}
    measured, times["checked"] = functions(model, *asked, args.cells)
    for name, (function, scale) in measured.items():
        times[name] = timed(function, args.repeats, args.clock) * scale
    times["decode"] = (times["decode"] - times["prefill"]) / NEW
    times["isa"] = torch.backends.cpu.get_cpu_capability()
    print(json.dumps(times))


# ---- mi ----

def of_mi(args, folder, threads, tokens, source, answers):
    base = [args.mi, "-m", os.path.join(folder, "model.safetensors"), "--threads", str(threads)]
    ids = lambda tokens: " ".join(map(str, tokens))
    prompt = ["--tokens", ids(tokens), "--answer", f"#{answers[0]}", "--versus", f"#{answers[1]}"]
    donor = ["--source-tokens", ids(source)]

    def wall(*arguments):
        run = lambda: subprocess.run([*base, *arguments], check=True, stdout=subprocess.DEVNULL)
        return timed(run, args.repeats, args.clock)

    def rows(text, n):          # the same prompt in n rows
        path = os.path.join(folder, f"rows{n}.tsv")
        with open(path, "w") as file:
            file.write("prompt\n" + f"{text}\n" * n)
        return wall("--data", path, "--answer", f"#{answers[0]}", "--versus", f"#{answers[1]}")

    def value(run, *arguments):
        out = subprocess.run([*base, *prompt, *arguments, "--json"], check=True, text=True,
                             stdout=subprocess.PIPE).stdout
        metric = json.loads(out)["tables"]["metric"]
        return metric["values"][metric["rows"].index(run)][0]

    T, times = len(tokens), {}
    last = args.layers - 1
    times["checked"] = [value("base"), value("edited", "--ablate", f"L{last}H0"),
                        value("edited", *donor, "--patch", f"L{last}.resid_pre@-1"),
                        value("edited", *donor, "--patch", f"L{last}H0@-1")]
    times["first"] = wall("--tokens", ids(tokens), "-n", "1")
    for name, n in ("prefill", T), ("prefill_long", LONG):
        text, more = "the" + " the" * (n - 1), max(4, 320 // n)
        times[name] = (rows(text, 1 + more) - rows(text, 1)) / more
    times["decode"] = (wall("--tokens", ids(tokens), "-n", str(NEW + 1)) - times["first"]) / NEW
    start = wall(*prompt)
    times["heads"] = wall(*prompt, "--ablate", "heads", "--each", "--tsv") - start
    times["start"] = start
    for name, sites in ("resid_pre", "L*.resid_pre@*"), ("z", "L*H*@*"):
        start = wall(*prompt, *donor, "--patch", f"L{last}H0@-1")
        times[name] = wall(*prompt, *donor, "--patch", sites, "--each", "--tsv") - start
    return times


# ---- The table ----

def of_peer(args, name, folder, threads, asked):
    command = [sys.executable, os.path.abspath(__file__), "--child", name, "--folder", folder,
               "--threads", str(threads), "--asked", json.dumps(asked),
               "--repeats", str(args.repeats), "--cells", str(args.cells), "--clock", args.clock]
    env = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1",
           "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
           "TQDM_DISABLE": "1", "PYTHONWARNINGS": "ignore"}
    if args.isa == "avx2":
        env |= {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2",
                "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
    run = lambda *more: subprocess.run([*command, *more], env=env, check=True, text=True,
                                       stdout=subprocess.PIPE).stdout
    times = json.loads(run().splitlines()[-1])
    times["first"] = timed(lambda: run("--first"), max(1, args.repeats - 1), args.clock)
    return times


def shown(seconds):
    if seconds < 0.2:
        return f"{1000 * seconds:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 100 else f"{seconds:.0f} s"


def table(args, threads, times):
    L, H, T = args.layers, args.heads, args.length
    mi = times["mi"]
    print(f"\n| {threads} thread{'s' * (threads > 1)}, {times['transformers']['isa']} | mi "
          "| transformers | ratio | transformer_lens | ratio |")
    print("|---|---|---|---|---|---|")
    for key, label in (
            ("first", f"start of the process to the first token, {T} tokens"),
            ("prefill", f"prefill, {T} tokens"), ("prefill_long", f"prefill, {LONG} tokens"),
            ("decode", "decode, tokens/s"),
            ("heads", f"ablate every head once ({L * H} runs)"),
            ("heads_batch", f"the same, {H} runs in a batch"),
            ("resid_pre", f"patch resid_pre, every layer and position ({L * T} runs)"),
            ("z", f"patch z, every head and position ({L * H * T} runs)")):
        own = mi["heads" if key == "heads_batch" else key]
        cells = [f"{1 / own:.3g}" if key == "decode" else shown(own)]
        for name in "transformers", "transformer_lens":
            other = times[name].get(key)
            if other is None:
                cells += ["", ""]
                continue
            ratio = other / own
            cells += [f"{1 / other:.3g}" if key == "decode" else shown(other), f"{ratio:.2g} ×"
                      if ratio < 100 else f"{ratio:.0f} ×"]
        print(f"| {label} | " + " | ".join(cells) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--length", type=int, default=16, help="tokens of a prompt")
    parser.add_argument("--threads", default="2,1")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cells", type=int, default=24, help="of each sweep, for the others")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--isa", choices=("native", "avx2"), default="native")
    parser.add_argument("--mi", default=os.path.join(ROOT, "mi"))
    for hidden in "--child", "--folder", "--asked":
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--first", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        args.threads = int(args.threads)
        asked = json.loads(args.asked)
        return first_token(args.child, args.folder, asked[0]) if args.first else child(args)
    from importlib.metadata import version
    rng = random.Random(1)
    tokens, source = ([rng.randrange(V) for _ in range(args.length)] for _ in range(2))
    asked = tokens, source, [5335, 1757]
    with tempfile.TemporaryDirectory() as folder:
        write_model(folder, args.layers, args.heads, args.width)
        print(f"{args.layers} layers, {args.heads} heads, {args.width} wide, {V} tokens, random "
              f"float32 weights; torch {version('torch')}, transformers {version('transformers')}, "
              f"transformer_lens {version('transformer_lens')}; "
              f"{len(os.sched_getaffinity(0))} cores")
        for threads in map(int, args.threads.split(",")):
            times = {"mi": of_mi(args, folder, threads, *asked)}
            for name in "transformers", "transformer_lens":
                times[name] = of_peer(args, name, folder, threads, asked)
                for own, other in zip(times["mi"]["checked"], times[name]["checked"]):
                    assert abs(own - other) < 1e-3 * (1 + abs(other)), (name, times)
            table(args, threads, times)
            sys.stdout.flush()
            print(json.dumps({threads: times}), file=sys.stderr)


if __name__ == "__main__":
    main()
