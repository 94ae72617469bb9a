"""Small networks, batches and directions whose gains are known, for tests of gains."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from outgrow.grow import gain
from outgrow.grow.gain import Judgement
from outgrow.grow.objective import OutputLoss
from outgrow.grow.sample import Batch


def judge(model, tangent, batches, loss):
    return gain.judge(model, [tangent], batches, OutputLoss(loss)).alone(0)


def realised(model, tangent, step, batches, loss, before):
    return gain.realised(model, tangent, step, batches, OutputLoss(loss), before)


def mean_loss(model, batches, loss):
    return gain.mean_loss(model, batches, OutputLoss(loss))


LOSSES = {"cross entropy": F.cross_entropy, "squares": F.mse_loss}


def problem(loss="cross entropy", n=60, seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)).double()
    x = torch.randn(n, 4).double()
    y = torch.randint(3, (n,)) if loss == "cross entropy" else torch.randn(n, 3).double()
    stops = [0, n // 4, n // 2 + 1, n]  # batches of several sizes
    return model.eval(), [Batch(x[i:j], y[i:j], j - i) for i, j in pairwise(stops)], x, y


def descent(model, x, y, loss, layer="3"):
    """A descending direction of one layer's weights that is not the gradient."""
    names = [f"{layer}.weight", f"{layer}.bias"]
    grads = torch.autograd.grad(loss(model(x), y), [model.get_parameter(name) for name in names])
    return {n: -g * (1 + 0.3 * torch.rand_like(g)) for n, g in zip(names, grads, strict=True)}


def along(model, tangent, x, y, loss, t):
    moved = {name: model.get_parameter(name).detach() + t * v for name, v in tangent.items()}
    return float(loss(torch.func.functional_call(model, moved, (x,)), y).detach())


def several(model, x, y, loss=F.cross_entropy):
    """The present step and candidates: one that has much of it, one of two layers, and one by chance."""
    present = descent(model, x, y, loss)
    near = {name: v + 0.3 * v.abs().mean() * torch.randn_like(v) for name, v in present.items()}
    other = {**descent(model, x, y, loss, layer="0"), "3.bias": present["3.bias"]}
    return [present, near, other, {"3.weight": torch.randn(3, 6).double()}]


def counts_of(rate, dtype=torch.float64):
    """One weight, the logarithm of a Poisson rate that starts at 1: the loss exp(z) - rate z bends more and more."""
    model = nn.Linear(1, 1, bias=False).to(dtype)
    nn.init.zeros_(model.weight)
    x = torch.ones(4, 1, dtype=dtype)
    return model, [Batch(x, rate * x, 4)], {"weight": torch.ones(1, 1, dtype=dtype)}


def alike(one, other, rel=1e-9):
    return (one.gain, one.se, one.step) == pytest.approx((other.gain, other.se, other.step), rel=rel, abs=1e-12)


def less(direction, first, share):
    names = dict.fromkeys((*direction, *first))
    zero = torch.zeros(()).double()
    return {name: direction.get(name, zero) - share * first.get(name, zero) for name in names}


def judgement_of(slopes, matrix):
    """A judgement of one term."""
    slopes, matrix = torch.tensor(slopes).double(), torch.tensor(matrix).double()
    return Judgement(slopes[None], matrix.diagonal()[None], matrix[0][None], matrix)
