"""Cross entropy of an output head against a sparse distribution, without ever holding all logits."""

from __future__ import annotations

from typing import Any, Final, cast

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

_CHUNK: Final = 512
"""Rows whose logits are held at a time."""


def soft_loss(x: Tensor, weight: Tensor, ids: Tensor, p: Tensor) -> Tensor:
    """The sum over rows of -sum_j p_j log softmax(x W^T)[ids_j], float32 [].

    x [N, D] and weight [V, D] in one float type; ids int64 [N, J]; p float32 [N, J], which need not add up to 1.
    """
    return cast(Tensor, _SoftLoss.apply(x, weight, ids, p))


class _SoftLoss(torch.autograd.Function):
    """Its gradients are computed with it, chunk by chunk."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, ids: Tensor, p: Tensor) -> Tensor:
        total = torch.zeros((), device=x.device)
        by_x, by_weight = torch.empty_like(x), torch.zeros_like(weight, dtype=torch.float32)
        for start in range(0, len(x), _CHUNK):
            rows = slice(start, start + _CHUNK)
            logits = F.linear(x[rows], weight).float()
            mass = p[rows].sum(dim=-1, keepdim=True)
            highest = logits.amax(dim=-1, keepdim=True)
            shifted = logits.sub_(highest)
            chosen = shifted.gather(1, ids[rows])
            exponents = shifted.exp_()
            norm = exponents.sum(dim=-1, keepdim=True)
            total += (mass[:, 0] * norm[:, 0].log()).sum() - (p[rows] * chosen).sum()
            slope = exponents.mul_(mass / norm).scatter_add_(1, ids[rows], -p[rows]).to(x.dtype)
            by_x[rows] = slope @ weight
            by_weight += slope.T @ x[rows]
        ctx.save_for_backward(by_x, by_weight.to(weight.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        by_x, by_weight = ctx.saved_tensors
        return by_x * grads[0].to(by_x.dtype), by_weight * grads[0].to(by_weight.dtype), None, None
