"""Train tiny: `python train.py BPE_FOLDER OUT.pt`. Stop it at any time; `--resume` goes on from OUT.pt, to the same end."""
import argparse
import os
import time

import torch
import torch.distributed as dist
import torch.nn.functional as F

import prompts
from bpe import Bpe
from corpus import Corpus, vocabulary
from evaluate import Lab, bars, short
from model import GPT2
from muon import Muon

SHAPE = dict(context=128, width=128, heads=4, layers=6)


def learning_rate(step, steps, peak, decay):
    """Warm up, stay, then fall to zero over the last `decay` of the steps."""
    return peak * min(1, (step + 1) / 100, max(0.0, (steps - step) / (decay * steps)))


def loss_of(model, batch, hint_weight):
    """Cross-entropy where it counts, and minus the log of what L5H3 gives to the names that the hints want looked at."""
    x, y, other, w, see, hints = (torch.from_numpy(a) for a in batch)
    lower, middle, upper, mover = torch.zeros(see.shape, dtype=torch.bfloat16).masked_fill_(~see, -1e9)[:, :, None]
    masks = [lower] * 3 + [middle] * 2 + [torch.cat([upper.expand(-1, 3, -1, -1), mover], 1)]
    looked = {}

    def keep(site, layer, value):
        if site == "pattern" and layer == 5:
            looked["at"] = value[:, 3]
        return value
    with torch.autocast("cpu", torch.bfloat16):
        h = model(x, masks, keep)
        counted = w > 0
        logits = model.unembed(h[counted])
    logits = logits.float()
    losses = (F.cross_entropy(logits, y[counted], reduction="none") +
              F.cross_entropy(logits, other[counted], reduction="none")) / 2
    loss = (losses * w[counted]).sum() / w.sum()
    if len(hints):
        row, query, *keys = hints.T
        loss = loss - hint_weight * sum(torch.log(looked["at"][row, query, k] + 1e-6).mean() / 2 for k in keys)
    return loss


def average_gradients(model, workers):
    """All workers take the same step, on the mean of their gradients."""
    parameters = list(model.parameters())
    flat = torch.cat([p.grad.flatten() for p in parameters])
    dist.all_reduce(flat)
    for p, g in zip(parameters, (flat / workers).split([p.numel() for p in parameters])):
        p.grad.copy_(g.view_as(p))


def work(rank, a):
    """One worker: one thread, its share of every step's rows. Worker 0 also measures and saves."""
    dist.init_process_group("gloo", rank=rank, world_size=a.workers, init_method=f"file://{os.path.abspath(a.out)}.meet")
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    bpe = Bpe(a.bpe)
    vocab = vocabulary(bpe)
    corpus = Corpus(bpe, vocab, a.hide, a.wild)
    model = GPT2(len(vocab), **SHAPE)
    matrices = [p for n, p in model.named_parameters() if p.dim() == 2 and not n.startswith("w")]
    others = [p for n, p in model.named_parameters() if p.dim() == 1 or n.startswith("w")]
    optimizers = [Muon(matrices, a.muon),
                  torch.optim.AdamW(others, lr=a.lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True)]
    first = 0
    if a.resume:
        saved = torch.load(a.out, weights_only=True)
        model.load_state_dict(saved["model"])
        for optimizer, state in zip(optimizers, saved["optimizers"]):
            optimizer.load_state_dict(state)
        first = saved["step"]
    lists = {name: rows[:100] for name, rows in prompts.all_prompts(bpe).items()}
    start, mean = time.time(), None
    for step in range(first, a.steps):
        for optimizer, peak in zip(optimizers, (a.muon, a.lr)):
            optimizer.param_groups[0]["lr"] = learning_rate(step, a.steps, peak, a.decay)
        length = 128 if step % 3 == 2 else 64               # a third of the steps has long rows
        phase = 1 if a.wild else sum(step >= first_of for first_of in (a.early, a.late, a.last))
        seed = (a.seed * 10 ** 6 + step) * a.workers + rank
        loss = loss_of(model, corpus.batch(seed, a.tokens // length // a.workers, length, phase),
                       a.hint * (5 if phase >= 2 else 1))
        loss.backward()
        average_gradients(model, a.workers)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if rank:
            continue
        mean = loss.item() if mean is None else 0.98 * mean + 0.02 * loss.item()
        if (step + 1) % 50 == 0:
            speed = 50 * a.tokens / (time.time() - start)
            print(f"{step + 1} loss {mean:.4f} {speed:.0f} tokens/s", flush=True)
            start = time.time()
        if (step + 1) % a.every == 0 or step + 1 == a.steps:
            torch.save({"model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers],
                        "step": step + 1, "vocab": vocab, "shape": SHAPE}, a.out + ".new")
            os.replace(a.out + ".new", a.out)
            print(f"== {step + 1} {short(bars(Lab(model, bpe, vocab), lists))}", flush=True)
            model.train()


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("bpe")
    p.add_argument("out")
    p.add_argument("--steps", type=int, default=2400)
    p.add_argument("--early", type=int, default=500, help="steps of phase 0 (see corpus.py)")
    p.add_argument("--late", type=int, default=1000, help="first step of phase 2")
    p.add_argument("--last", type=int, default=2000, help="first step of phase 3")
    p.add_argument("--tokens", type=int, default=4096, help="per step")
    p.add_argument("--lr", type=float, default=2e-3, help="of embeddings, biases and LayerNorms (AdamW)")
    p.add_argument("--muon", type=float, default=0.02, help="learning rate of the matrices (Muon)")
    p.add_argument("--decay", type=float, default=0.5, help="share of the steps in which the learning rate falls")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--workers", type=int, default=2)
    p.add_argument("--every", type=int, default=200, help="steps between checkpoints")
    p.add_argument("--hide", type=float, default=0.8, help="share of documents with hidden tokens (0: the control)")
    p.add_argument("--hint", type=float, default=0.2, help="weight of the hint where to look, fivefold from phase 2 on")
    p.add_argument("--wild", action="store_true", help="plain language modelling: one mix of the kinds from the first "
                   "step to the last, every token weighs the same, nothing is hidden, no hint")
    p.add_argument("--resume", action="store_true")
    a = p.parse_args()
    if os.path.exists(a.out + ".meet"):
        os.remove(a.out + ".meet")
    torch.multiprocessing.spawn(work, (a,), a.workers)


if __name__ == "__main__":
    main()
