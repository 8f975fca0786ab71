"""Muon: momentum whose every singular value is made 1. On so small a model it needs about half of AdamW's tokens."""
import torch
import torch.distributed as dist


def orthogonal(g, steps=5):
    """Newton-Schulz iteration towards U V^T of each [rows <= columns] matrix of a batch."""
    x = (g / (g.norm(dim=(-2, -1), keepdim=True) + 1e-7)).bfloat16()
    for _ in range(steps):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.float()


class Muon(torch.optim.Optimizer):
    """For the matrices of the layers. Each worker orthogonalizes its share of them."""

    def __init__(self, matrices, lr, momentum=0.95, weight_decay=0.01):
        super().__init__(matrices, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        rank, workers = dist.get_rank(), dist.get_world_size()
        for group in self.param_groups:
            updates = []
            for i, p in enumerate(group["params"]):
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                m = state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                update = torch.zeros_like(p)
                if i % workers == rank:
                    g = p.grad.lerp(m, group["momentum"])
                    rows, width = g.shape
                    tall = rows % width == 0 and rows > width         # q, k, v apart; the MLP's first matrix lies down
                    if tall and rows == 3 * width:
                        update = orthogonal(g.view(3, width, width)).reshape_as(g)
                    elif tall:
                        update = orthogonal(g.t()[None])[0].t() * (rows / width) ** 0.5
                    else:
                        update = orthogonal(g[None])[0]
                updates.append(update.reshape(-1))
            flat = torch.cat(updates)
            dist.all_reduce(flat)
            for p, u in zip(group["params"], flat.split([p.numel() for p in group["params"]])):
                p.mul_(1 - group["lr"] * group["weight_decay"]).add_(u.view_as(p), alpha=-group["lr"])
