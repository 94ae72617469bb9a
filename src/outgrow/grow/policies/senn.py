"""The policy of self-expanding neural networks (SENN: Mitchell et al., arXiv 2307.04526)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from outgrow.errors import InputError
from outgrow.grow.additions import additions_bound
from outgrow.grow.event import Candidate
from outgrow.grow.policies.rhythm import Rhythm
from outgrow.grow.policies.schedule import demand_on_trial
from outgrow.grow.policy import Decision, Plan, Present, Situation, Timetable

Relative = Literal["layer", "total"]
"""What an increase is set against: eta_c of the layers that read the new units, or of all layers on trial."""


@dataclass(frozen=True)
class Senn:
    """Add one unit or one block after the other while the best one raises the natural expansion score enough.

        Delta eta / eta_c > tau    and    Delta eta > alpha lambda

    lambda is the mean squared gradient at the outputs (`outgrow.grow.additions.ceiling`). Of the candidates that pass,
    the one with the largest Delta eta / eta_c is added, and the policy looks again at once, without training between:
    so every moment ends with a look that adds nothing. Everything is decided on the examples that the units were
    optimised on, as published; nothing is judged on fresh ones.

    At one moment there can be N < 1 + ln(1 / alpha) / ln(1 + tau) additions, since alpha is relative to lambda. That
    takes one estimator throughout, and here there are several: eta_c and Delta eta are sums over layers, each under its
    own K-FAC factors and damping, and every look draws new noise. So the bound can bite: it is enforced, and where it
    ends a moment the reason says so.

    What differs from the paper: SENN optimises the incoming weights of many random proposals by gradient ascent on
    Delta eta'. Here units are proposed as `init` says. `closed` is the optimum of the same quantity for linear units
    (TINY's singular vectors of the whitened residual); the real activation then decides the score. It has little to say
    where inputs are few: on one input, the linear feature is all but there already, and a `mixed` pool, of which the
    best unit under the real activation is taken, starts more often. A block's eta_c is always that of all layers, and
    its Delta eta' is Delta eta, as nothing reads its features yet.

    Args:
        tau: Least relative increase; the published experiments span 0.007 to 1.0.
        alpha: Least increase, as a share of lambda.
        relative: What the increase is relative to, `layer` or `total`.
        bound: Whether SENN's cheap lower bound Delta eta' decides, in place of the exact Delta eta.
        units: How many units one addition brings.
        init: How units are proposed; see `outgrow.grow.proposals`.
        depth: Whether blocks compete, too.
        every: Epochs from one moment to the next; the first comes after as many.
        share: Share of the run in which the network grows.

    Raises:
        InputError: A threshold is not above zero, so that there is no bound, or another argument is out of range.

    Examples:
        >>> Senn().most, Senn(tau=0.007).most, Senn(alpha=0.1, tau=1.0).most
        (9, 859, 4)
    """

    tau: float = 1.0
    alpha: float = 2.5e-3
    relative: Relative = "layer"
    bound: bool = False
    units: int = 1
    init: str = "closed"
    depth: bool = True
    every: float = 1.0
    share: float = 1.0

    def __post_init__(self) -> None:
        additions_bound(1.0, self.tau, self.alpha)
        demand_on_trial(self.init)
        _ = self.rhythm  # raises
        if self.relative not in get_args(Relative):
            raise InputError(f"relative: expected one of {', '.join(get_args(Relative))}, received '{self.relative}'")
        if self.units < 1:
            raise InputError(f"units: expected at least one, received {self.units}")

    @classmethod
    def over(cls, run: Timetable) -> "Senn":
        """Return the policy with as many moments as a run has room for."""
        return cls(every=run.share * run.epochs / run.events, share=run.share)

    @classmethod
    def paper(cls, run: Timetable) -> "Senn":
        """Return the policy of SENN's regression experiment: single units by Delta eta', to the end of the run."""
        return cls(tau=1.0, alpha=2.5e-3, bound=True, units=1, init="mixed", depth=False)

    @property
    def rhythm(self) -> Rhythm:
        """When moments come."""
        return Rhythm(self.every, self.share)

    @property
    def most(self) -> int:
        """How many additions there can be at one moment."""
        return additions_bound(1.0, self.tau, self.alpha)

    def propose(self, now: Situation) -> Plan | None:
        """Return new units on every axis, and blocks at every place, when a moment is due or goes on."""
        if not self._due(now):
            return None
        if _additions(now) >= self.most:
            limits = f"tau {self.tau:g} and alpha {self.alpha:g} of the ceiling"
            return Plan({}, f"{self.most} additions at this moment, the most that there can be with {limits}")
        units = {axis: self.units for axis in now.sizes if now.fits({axis: self.units})}
        blocks = now.places() if self.depth else ()
        if not units and not blocks:
            return Plan({}, f"the budget of {now.budget} is spent" if now.sizes else "nothing can grow")
        return Plan(units, "due", blocks, init=self.init, evidence="score")

    def decide(self, now: Situation, candidates: Sequence[Candidate], present: Present) -> Decision:
        """Return the best candidate, if it passes both thresholds."""
        best = max(
            (c for c in candidates if now.affords(c)),
            key=lambda c: (self._accepts(c, present), self._log_ratio(c, present), self._increase(c)),
            default=None,
        )
        if best is None:
            return Decision({}, f"nothing is within the budget of {now.budget}")
        found = f"{best.where} would raise eta by {self._increase(best):.1e}, {self._ratio(best, present):.2g} of eta_c"
        if not self._accepts(best, present):
            return Decision({}, f"{found}: not above tau {self.tau:g} and {self.alpha * present.ceiling:.1e}")
        if best.kind == "insert":
            return Decision({}, found, blocks=(best.where,), again=True)
        return Decision({best.where: best.units}, found, again=True)

    def _due(self, now: Situation) -> bool:
        """Whether another moment has come, or the last one goes on since something was added."""
        last = now.history[-1] if now.history else None
        if last is not None and (last.epoch, last.progress) == (now.epoch, now.progress):
            return bool(last.growths)
        return self.rhythm.due(now)

    def _increase(self, candidate: Candidate) -> float:
        return candidate.bound if self.bound else candidate.score

    def _eta(self, candidate: Candidate, present: Present) -> float:
        return candidate.present if self.relative == "layer" else present.score

    def _ratio(self, candidate: Candidate, present: Present) -> float:
        eta, increase = self._eta(candidate, present), max(self._increase(candidate), 0.0)
        return increase / eta if eta > 0 else math.inf if increase else 0.0

    def _log_ratio(self, candidate: Candidate, present: Present) -> float:
        """The logarithm of the ratio, which is infinite for an eta of zero alone: a quotient overflows before that."""
        eta, increase = self._eta(candidate, present), self._increase(candidate)
        if not increase > 0:
            return -math.inf
        return math.log(increase) - math.log(eta) if eta > 0 else math.inf

    def _accepts(self, candidate: Candidate, present: Present) -> bool:
        enough = self._increase(candidate) > self.alpha * present.ceiling
        return enough and self._ratio(candidate, present) > self.tau


def _additions(now: Situation) -> int:
    """Return how many additions there were at this moment."""
    count = 0
    for event in reversed(now.history):
        if (event.epoch, event.progress) != (now.epoch, now.progress):
            break
        count += len(event.growths)
    return count
