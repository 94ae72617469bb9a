"""Joint selection: which units of a pool to take, one after the other, each given those that are taken already.

Units are taken greedily by the largest K-FAC increase beside the present features c and the units P taken so far,
summed over the layers that read them. With M what is left of the pool's second moment after regression on both, and T
of its gradient, whitened by S,

    M = A_pp - A_pc A_cc^-1 A_cp,    T = S^-1/2 (G_p - G_c A_cc^-1 A_cp),
    increase of unit j = Tr(T_j (M_jj + ridge_j)^-1 T_j^T),

and taking j leaves M - M_.j M_jj^-1 M_j. and T - T_j M_jj^-1 M_j.: a block-pivoted Cholesky factor of A_perp. A unit
has several features where it has several columns: a kernel, the pixels of a flattened map, the channels of a head. So a
copy of a unit that is present or taken comes last, however large its own score is.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from outgrow.grow.score import Increase, increase, natural_step, solve

REGRESSION_DAMPING = 1e-3  # at most, on the present features: a copy keeps at most a quarter of it
REDUNDANT = 1e-3  # share of a unit's second moment that present and taken features leave: less is a copy
DEAD = 1e-6  # of the present features' median second moment: less is a unit that does not fire
ROUNDING = 1e-12  # of the mean second moment of a unit


@dataclass(frozen=True)
class Reading:
    """A layer that reads a pool of units, its features in the order: present ones, then each unit's.

    Args:
        A: Second moment of the features [features, features].
        S: Fisher factor of the outputs [outputs, outputs], or its diagonal [outputs].
        G: Gradient of the mean loss [outputs, features].
        units: How many units.
        entries: Features of one unit.
    """

    A: Tensor
    S: Tensor
    G: Tensor
    units: int
    entries: int

    @property
    def present(self) -> int:
        """How many features are present."""
        return len(self.A) - self.units * self.entries

    def increase(self, damping: float) -> Increase:
        """Return what all the units would add beside the present features."""
        features = torch.arange(len(self.A))
        return increase(self.A, self.S, self.G, features[: self.present], features[self.present :], damping)

    def quadratic(self, step: Tensor) -> tuple[float, float]:
        """Return slope and curvature [nats] of K-FAC's quadratic along a step V: -Tr V^T G and Tr V A V^T S."""
        across = self.S[:, None] * step if self.S.ndim == 1 else self.S @ step
        return -float((step * self.G).sum()), float((step @ self.A * across).sum())

    def step(self, damping: float) -> Tensor:
        """Return the step of all columns for the units, or of the present ones where there are none."""
        if not self.units:
            return natural_step(self.A, self.S, self.G, damping)
        found = self.increase(damping)
        return torch.cat([found.present, found.new], 1)


def greedy(readings: Sequence[Reading], damping: float) -> Tensor:
    """Order the units of a pool by what each adds to those before it, so that the first k are the choice of any k.

    Units that are copies come behind all others, and units that don't fire behind those, in the pool's order.

    Args:
        readings: Every layer that reads them, with the same units; at least one.
        damping: Of S, and of each unit's residual M_jj, as a share of the mean second moment of S and of the unit.

    Returns:
        The units' numbers [units].

    Examples:
        >>> A = torch.diag(torch.tensor([1.0, 1.0, 1.0, 4.0])).double()
        >>> G = torch.tensor([[0.0, 0.1, 0.3, 0.4]]).double()
        >>> greedy([Reading(A, A[:1, :1], G, units=3, entries=1)], 0.0).tolist()
        [1, 2, 0]
    """
    states = [_Residual(reading, damping) for reading in readings]
    dead = torch.stack([state.dead for state in states]).all(0)
    taken = torch.zeros_like(dead)
    order = []
    for _ in range(len(dead)):
        gains = torch.stack([state.increases() for state in states]).sum(0)
        redundant = torch.stack([state.shares() < REDUNDANT for state in states]).all(0)
        rank = gains.masked_fill(redundant, -1.0).masked_fill(dead, -2.0).masked_fill(taken, -torch.inf)
        best = int(rank.argmax())
        order.append(best)
        taken[best] = True
        for state in states if rank[best] >= 0 else ():
            state.take(best)
    return torch.tensor(order, dtype=torch.long)


class _Residual:
    """What present and taken features leave of the units, in one layer.

    Attributes:
        dead: Units that don't fire [units].
    """

    def __init__(self, reading: Reading, damping: float) -> None:
        c, self._shape = reading.present, (reading.units, reading.entries)
        A, G, S = reading.A, reading.G, reading.S
        Acp, App = A[:c, c:], A[c:, c:]
        B = solve(A[:c, :c], Acp, min(damping, REGRESSION_DAMPING)).mT
        M = App - B @ Acp - Acp.mT @ B.mT + B @ A[:c, :c] @ B.mT
        self._M = (M + M.mT) / 2
        self._T = _whitened(S, G[:, c:] - G[:, :c] @ B.mT, max(damping, ROUNDING))
        self._power = App.diagonal().reshape(self._shape).mean(1)
        self._damping = max(damping, ROUNDING)
        usual = A.diagonal()[:c] if c else self._power
        self.dead = self._power <= DEAD * usual.median()

    def increases(self) -> Tensor:
        """Return what each unit adds to the taken ones [units]."""
        units, entries = self._shape
        blocks = self._M.reshape(units, entries, units, entries).diagonal(dim1=0, dim2=2).movedim(2, 0)
        ridge = self._damping * self._power[:, None, None] * torch.eye(entries).to(blocks)
        factors, failed = torch.linalg.cholesky_ex(blocks + ridge)
        T = self._T.mT.reshape(units, entries, -1)
        gains = torch.linalg.solve_triangular(factors, T, upper=False).square().sum((1, 2))
        return torch.where(failed == 0, gains, 0.0).nan_to_num(0.0, 0.0, 0.0)

    def shares(self) -> Tensor:
        """Return the share of each unit's second moment that is left [units]."""
        left = self._M.diagonal().reshape(self._shape).mean(1)
        return torch.where(self._power > 0, left / self._power, 0.0)

    def take(self, unit: int) -> None:
        """Take what a unit explains off the others."""
        entries = self._shape[1]
        at = slice(unit * entries, (unit + 1) * entries)
        explained = solve(self._M[at, at], self._M[at], ROUNDING, beside=self._M[at, at] * 0 + self._power[unit])
        self._T = self._T - self._T[:, at] @ explained
        self._M = self._M - self._M[:, at] @ explained


def _whitened(S: Tensor, C: Tensor, damping: float) -> Tensor:
    """Return L^-1 C with L L^T = S + damping * mean diagonal; zeros where that has no factor."""
    if S.ndim == 1:
        ridged = (S + damping * S.mean())[:, None]
        return torch.where(ridged > 0, C * ridged.rsqrt(), 0.0)
    ridge = damping * S.diagonal().mean() * torch.eye(len(S)).to(S)
    factor, failed = torch.linalg.cholesky_ex(S + ridge)
    T = torch.linalg.solve_triangular(factor, C, upper=False)
    return torch.zeros_like(T) if failed else T
