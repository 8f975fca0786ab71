"""GPT-2 in a page. `edit(site, layer, value)` sees, and may replace, every activation that has a name in mi.h."""
import math

import torch
import torch.nn.functional as F
from torch import nn


def sinusoids(n, width):
    angle = torch.arange(n)[:, None] / 10000 ** (torch.arange(0, width, 2) / width)[None]
    return torch.stack((angle.sin(), angle.cos()), -1).reshape(n, width)


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.c_fc, self.c_out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x, mask, layer, edit):
        B, T, D = x.shape
        x = edit("resid_pre", layer, x)
        q, k, v = self.c_attn(self.ln_1(x)).view(B, T, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        pattern = edit("pattern", layer, torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(k.shape[-1]) + mask, -1))
        z = edit("z", layer, (pattern.to(v.dtype) @ v).transpose(1, 2))       # [B, T, heads, D/heads]
        x = x + edit("attn_out", layer, self.c_proj(z.reshape(B, T, D)))
        x = x + edit("mlp_out", layer, self.c_out(F.gelu(self.c_fc(self.ln_2(x)), approximate="tanh")))
        return edit("resid_post", layer, x)


class GPT2(nn.Module):
    def __init__(self, vocab, context=128, width=128, heads=4, layers=6):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocab, width), nn.Embedding(context, width)
        self.h = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.ln_f = nn.LayerNorm(width)
        for name, p in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(p)
            elif p.dim() == 2:
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * layers) if "c_proj" in name or "c_out" in name else 0.02)
        with torch.no_grad():
            self.wpe.weight.copy_(0.05 * sinusoids(context, width))

    def forward(self, x, masks=None, edit=lambda site, layer, value: value):
        """Final LayerNorm's output; `masks`, if any, has an additive mask for each layer."""
        T = x.shape[1]
        if masks is None:
            masks = [torch.full((T, T), -1e9).triu(1)] * len(self.h)
        h = self.wte(x) + self.wpe.weight[:T]
        for i, block in enumerate(self.h):
            h = block(h, masks[i], i, edit)
        return self.ln_f(h)

    def unembed(self, h):
        return h @ self.wte.weight.t()

    def logits(self, x, edit=lambda site, layer, value: value):
        return self.unembed(self(x, edit=edit))
