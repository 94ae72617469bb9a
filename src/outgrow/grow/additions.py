"""How many additions one moment of training can have at most (SENN: Mitchell et al., arXiv 2307.04526).

An addition is accepted if Delta eta / eta_c > tau and Delta eta > alpha. The first one then leaves eta > alpha, each
further one multiplies eta by more than 1 + tau, and eta never exceeds a ceiling lambda:

    alpha (1 + tau)^(N - 1) < eta <= lambda,    so    N < 1 + ln(lambda / alpha) / ln(1 + tau)

That needs *one* estimator throughout. The same Fisher matrix, with the same damping, gives eta_c and Delta eta, so
that eta_c + Delta eta is the eta_c of the next addition; additions are nested, each beside all parameters that were
accepted before it; and the ceiling is that of the matrix's own metric. Sums of the scores of several layers, each
under its own K-FAC factors, count twice and have no such ceiling. And if a damped eta_c is set against an undamped
Delta eta, the ratio may stay above tau addition after addition: what is left then is N < lambda / alpha, since the
undamped increases still sum to at most lambda.
"""

import math
from collections.abc import Sequence

from torch import nn

from outgrow.errors import InputError
from outgrow.grow.objective import Objective
from outgrow.grow.sample import Batch, examples_in

ROUNDING = 1e-12  # relative, so that the bound is never one too small


def additions_bound(ceiling: float, tau: float, alpha: float) -> int:
    """Return the largest number of successive additions at one moment, under the condition of this module.

    Args:
        ceiling: What no score exceeds, lambda [nats].
        tau: The least relative increase that is accepted.
        alpha: The least increase that is accepted [nats].

    Returns:
        The largest whole N with N < 1 + ln(ceiling / alpha) / ln(1 + tau).

    Raises:
        InputError: A number is out of range: without both thresholds there is no bound.

    Examples:
        >>> additions_bound(ceiling=1.0, tau=1.0, alpha=0.1)
        4
        >>> additions_bound(ceiling=0.1, tau=1.0, alpha=0.1)
        0
    """
    for name, value in (("tau", tau), ("alpha", alpha)):
        if not 0 < value < math.inf:
            raise InputError(f"{name}: expected a number above 0, received {value}; with 0 there is no bound")
    if not 0 <= ceiling < math.inf:
        raise InputError(f"ceiling: expected a number of at least 0, received {ceiling}")
    if ceiling <= alpha:
        return 0
    bound = 1 + (math.log(ceiling) - math.log(alpha)) / math.log1p(tau)
    return math.ceil(bound * (1 + ROUNDING)) - 1


def ceiling(model: nn.Module, batches: Sequence[Batch], objective: Objective) -> float:
    """Return lambda, the mean squared gradient of an example's loss at the outputs [nats].

    It bounds every score whose Fisher matrix is that of the Euclidean metric, F = E[J^T J] with J the derivative of an
    example's outputs. Where the loss has the Hessian H = h I at the outputs, as squares have, the scores of the
    Gauss-Newton matrix are bounded by lambda / h; those of other losses only by E[u^T H^+ u], which has no such bound.

    Args:
        model: Run as it is.
        batches: The examples.
        objective: What the model is trained for.

    Returns:
        The mean over examples of |u|^2, u the gradient of an example's own loss at the values that its loss reads.
    """
    gradients = (g for batch in batches for g in objective.answer(model, batch).gradient())
    return sum(float(g.double().square().sum()) for g in gradients) / examples_in(batches)
