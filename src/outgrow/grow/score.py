"""The natural expansion score of new columns in one layer, and the step that it stands for.

SENN (Mitchell et al., arXiv 2307.04526), in its K-FAC form. Indices: c the features that a layer reads now, p the new
ones; weights W [outputs, features] have gradient G and Fisher A (x) S.

    total(A, S, G) = Tr(S^-1 G A^-1 G^T)          of all the weights of a layer, present ones or present and new

Without damping, up to rounding and for G in the range of A and S, as gradients on the sample of A and S are:

    0 <= bound <= score <= total of present and new,    score = total of present and new - total of the present

With damping d of `increase`, `0 <= bound <= score <= total of present and new, undamped` still holds. The score is then
no difference of totals, and may be above or below the undamped one: its ridges stand on A_perp, which lowers it, and
on the regression, whose remainder leaves it a share (at most `REGRESSION_DAMPING`) of what the present could do.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

REGRESSION_DAMPING = 0.03  # at most, of the regression on the present features: more would give copies a score
ROUNDING = 100  # times machine precision: what a pivot may owe to rounding
RIDGES = (0.0, 1e-6, 1e-3)  # shares of the mean diagonal, added in turn until a matrix can be factored
REFINEMENTS = 3  # of a solution that needed them


@dataclass(frozen=True)
class Increase:
    """What new columns would add.

    Args:
        score: Natural expansion score, exact under K-FAC: Tr(S^-1 C A_perp^-1 C^T) [nats]; half of it is what the
            local quadratic model saves.
        bound: SENN's cheap lower bound: Tr(S^-1 C A_pp^-1 C^T) [nats], with the ridges of the score.
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
        S: Fisher factor of the outputs [outputs, outputs], or its diagonal [outputs].
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
    C = G[:, p] - G[:, c] @ B.mT
    SC = solve(S, C, damping)
    new = -solve((perp + perp.mT) / 2, SC.mT, damping, beside=App).mT
    return Increase(
        score=float(-(C * new).sum()),
        bound=float((C * solve(App, SC.mT, damping).mT).sum()),
        new=new,
        present=-new @ B,
    )


def total(A: Tensor, S: Tensor, G: Tensor, damping: float = 0.0) -> float:
    """Return the natural expansion score of all the weights of a layer, Tr(S^-1 G A^-1 G^T) [nats].

    Args:
        A: Second moment of its features [features, features].
        S: Fisher factor of its outputs [outputs, outputs], or its diagonal [outputs].
        G: Gradient of the mean loss [outputs, features].
        damping: Added to both diagonals, as a share of their means.

    Returns:
        The score; half of it is what the local quadratic model says that these weights can still save.

    Examples:
        >>> total(torch.eye(2), torch.eye(1), torch.tensor([[0.5, 1.0]]))
        1.25
    """
    return -float((G * natural_step(A, S, G, damping)).sum())


def natural_step(A: Tensor, S: Tensor, G: Tensor, damping: float) -> Tensor:
    """Return the damped natural-gradient step of weights, -S^-1 G A^-1 [outputs, features]."""
    return -solve(A, solve(S, G, damping).mT, damping).mT


def solve(matrix: Tensor, right: Tensor, damping: float, beside: Tensor | None = None) -> Tensor:
    """Return (matrix + damping * mean diagonal * I)^-1 right, by Cholesky.

    Where rounding decides about a pivot, the matrix counts as singular: it may have a factor, but what that solves is
    noise. More damping is added then, and its effect on the directions that are there taken out by refinement, which
    leads towards the pseudo-inverse (iterated Tikhonov regularisation). A matrix of zeros, or one that isn't finite,
    gives zeros.

    Args:
        matrix: Positive semi-definite [size, size], or the diagonal of a diagonal one [size].
        right: Right-hand sides [size, columns].
        damping: Share of the mean diagonal.
        beside: Where the matrix is what is left of another one: that one, whose diagonal is the measure.

    Returns:
        The solution [size, columns].
    """
    size, measure = len(matrix), matrix if beside is None else beside
    if not size:
        return right
    diagonal = measure if measure.ndim == 1 else measure.diagonal()
    mean = diagonal.mean()
    if not (mean > 0 and mean.isfinite()):  # nothing is known of any direction: no step
        return torch.zeros_like(right)
    if matrix.ndim == 1:
        damped = (matrix + damping * mean)[:, None]
        return torch.where(damped > ROUNDING * torch.finfo(damped.dtype).eps * mean, right / damped, 0.0)
    ridge = mean * torch.eye(size, dtype=matrix.dtype, device=matrix.device)
    damped = matrix + damping * ridge
    for more in RIDGES:
        factor, failed = torch.linalg.cholesky_ex(damped + more * ridge)
        if failed or (more < RIDGES[-1] and _doubtful(factor, diagonal + (damping + more) * mean)):
            continue
        solution = torch.cholesky_solve(right, factor)
        for _ in range(REFINEMENTS if more else 0):
            solution = solution + torch.cholesky_solve(right - damped @ solution, factor)
        return solution
    return torch.linalg.lstsq(matrix + ridge, right).solution


def _doubtful(factor: Tensor, diagonal: Tensor) -> bool:
    """Whether a pivot, as a share of its diagonal entry, may be rounding, which grows by the least pivot before it."""
    pivots = factor.diagonal().square() / diagonal
    before = torch.cat([torch.ones_like(pivots[:1]), pivots.cummin(0).values[:-1]])
    return bool((pivots * before <= ROUNDING * torch.finfo(factor.dtype).eps).any())
