"""The natural expansion score of new columns in one layer, and the step that it stands for.

SENN (Mitchell et al., arXiv 2307.04526), in its K-FAC form. Indices: c the features that a layer reads now, p the new
ones; weights W [outputs, features] have gradient G and Fisher A (x) S.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

REGRESSION_DAMPING = 0.03  # at most, of the regression on the present features: more would give copies a score
ROUNDING = 1e-12  # of A_perp, relative to A_pp


@dataclass(frozen=True)
class Increase:
    """What new columns would add.

    Args:
        score: Natural expansion score, exact under K-FAC: Tr(S^-1 C A_perp^-1 C^T) [nats]; half of it is what the
            local quadratic model saves.
        bound: SENN's cheap lower bound: Tr(S^-1 C A_pp^-1 C^T) [nats].
        new: Natural-gradient step of the new columns [outputs, new features].
        present: Step of the present columns that takes out what they could do themselves [outputs, features].
    """

    score: float
    bound: float
    new: Tensor
    present: Tensor


def increase(A: Tensor, S: Tensor, G: Tensor, c: Tensor, p: Tensor, damping: float = 0.0) -> Increase:
    """Score new features p of a layer beside its present ones c.

        B      = A_pc A_cc^-1                            regression of the new features on the present
        A_perp = E[(a_p - B a_c)(a_p - B a_c)^T],        C = G_p - G_c B^T
        V_p    = -S^-1 C A_perp^-1,                      V_c = -V_p B

    Args:
        A: Second moment of all features [features, features].
        S: Fisher factor of the outputs [outputs, outputs].
        G: Gradient of the mean loss [outputs, features].
        c: Indices of the present features.
        p: Indices of the new features.
        damping: Added to each diagonal, as a share of its mean: of A_pp's for A_perp, or what little a copy of the
            present features keeps after the regression would be blown up.

    Returns:
        The score, the bound and the step.

    Examples:
        >>> A = torch.eye(2, dtype=torch.float64)
        >>> found = increase(A, A[:1, :1], torch.tensor([[0.0, 0.5]]).double(), torch.tensor([0]), torch.tensor([1]))
        >>> round(found.score, 6), found.new
        (0.25, tensor([[-0.5000]], dtype=torch.float64))
    """
    Acc, App, Apc = A[c][:, c], A[p][:, p], A[p][:, c]
    B = solve(Acc, Apc.mT, min(damping, REGRESSION_DAMPING)).mT
    perp = App - B @ Apc.mT - Apc @ B.mT + B @ Acc @ B.mT
    ridge = max(damping, ROUNDING) * App.diagonal().mean() * torch.eye(len(App), dtype=A.dtype, device=A.device)
    C = G[:, p] - G[:, c] @ B.mT
    SC = solve(S, C, damping)
    new = -solve((perp + perp.mT) / 2 + ridge, SC.mT, 0.0).mT
    return Increase(
        score=float(-(C * new).sum()),
        bound=float((C * solve(App, SC.mT, damping).mT).sum()),
        new=new,
        present=-new @ B,
    )


def natural_step(A: Tensor, S: Tensor, G: Tensor, damping: float) -> Tensor:
    """Return the damped natural-gradient step of weights, -S^-1 G A^-1 [outputs, features]."""
    return -solve(A, solve(S, G, damping).mT, damping).mT


def solve(matrix: Tensor, right: Tensor, damping: float) -> Tensor:
    """Return (matrix + damping * mean diagonal * I)^-1 right, by Cholesky; more damping where rounding needs it.

    A matrix of zeros, or one that isn't finite, gives zeros.
    """
    size = len(matrix)
    if not size:
        return right
    mean = matrix.diagonal().mean()
    if not (mean > 0 and mean.isfinite()):  # nothing is known of any direction: no step
        return torch.zeros_like(right)
    eye = torch.eye(size, dtype=matrix.dtype, device=matrix.device)
    for share in (damping, max(damping, 1e-10), max(damping, 1e-6), max(damping, 1e-3)):
        factor, failed = torch.linalg.cholesky_ex(matrix + share * mean * eye)
        if not failed:
            return torch.cholesky_solve(right, factor)
    return torch.linalg.lstsq(matrix + mean * eye, right).solution
