"""The policy of self-expanding convolutional networks (SECNN: Appolinary et al., arXiv 2401.05686)."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from outgrow.errors import InputError
from outgrow.grow.diagonal import discounted
from outgrow.grow.event import Candidate
from outgrow.grow.policies.rhythm import Rhythm
from outgrow.grow.policy import Decision, Plan, Present, Situation, Timetable

COOLDOWN = 10 / 300  # of the run: 10 of 300 epochs, as published


@dataclass(frozen=True)
class Secnn:
    """Add a layer to a block or some channels to an axis, whichever raises the diagonal score most, if it is enough.

        (eta_c + eta_p) exp(-rate dp^2) / eta_c > tau

    eta_c is the score g^T F^-1 g of all weights with the diagonal of the empirical Fisher matrix, eta_p that of what is
    new, and dp how many parameters come in (`outgrow.grow.diagonal`). Each weight adds between 0 and 1: so a tau of 2
    asks the new weights for a sum as large as that of the whole network. What a diagonal does not see is redundancy;
    copies of one good neuron raise this score without limit.

    A block is the container of places: the stage of a residual network, a sequence of layers. It has as many layers as
    places, and takes the next one behind the last.

    What differs from the paper: there, all weights of an expansion are random and small, so that the function moves;
    here one side is at zero and eta_p that of this side. There, channels come in on all layers of a block; here on one
    axis. How often an axis has grown is counted by its name, which an insertion before it may change.

    Args:
        tau: Least ratio of the new score to the old one.
        rate: SECNN's lambda_n, of the discount for added parameters.
        channels: How many channels an axis gets when it grows for the first time, the second time, and so on; the last
            number from then on.
        layers: Most layers of a block; 0 for growth in width alone.
        cooldown: Epochs after a growth without a look.
        every: Epochs from one look to the next; the first comes after as many.
        share: Share of the run in which the network grows.

    Raises:
        InputError: There are no channels, or another argument is out of range.
    """

    tau: float = 2.0
    rate: float = 1e-7
    channels: tuple[int, ...] = (2, 4)
    layers: int = 10
    cooldown: float = 10.0
    every: float = 1.0
    share: float = 1.0

    def __post_init__(self) -> None:
        if not self.channels or min(self.channels) < 1:
            raise InputError(f"channels: expected one number above zero at least, received {self.channels}")
        if not self.tau > 0:
            raise InputError(f"tau: expected a number above zero, received {self.tau}")
        for name in ("rate", "layers", "cooldown"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name}: expected a number of at least 0, received {getattr(self, name)}")
        _ = self.rhythm  # raises

    @classmethod
    def over(cls, run: Timetable) -> "Secnn":
        """Return the policy for a run, its cooldown the published share of it."""
        return cls(cooldown=COOLDOWN * run.epochs, share=run.share)

    @classmethod
    def paper(cls, run: Timetable) -> "Secnn":
        """Return the policy as published: a cooldown of 10 epochs, and growth to the end of the run."""
        return cls()

    @property
    def rhythm(self) -> Rhythm:
        """When looks come."""
        return Rhythm(self.every, self.share)

    def propose(self, now: Situation) -> Plan | None:
        """Return channels on every axis and a layer for every block, when a look is due."""
        if not self._due(now):
            return None
        grown = Counter(growth.where for event in now.history for growth in event.growths if growth.kind == "widen")
        units = {axis: self.channels[min(grown[axis], len(self.channels) - 1)] for axis in now.sizes}
        units = {axis: count for axis, count in units.items() if now.fits({axis: count})}
        blocks = self._blocks(now.places())
        if not units and not blocks:
            return Plan({}, f"the budget of {now.budget} is spent" if now.sizes else "nothing can grow")
        return Plan(units, "due", blocks, init="random", evidence="score", diagonal=True)

    def decide(self, now: Situation, candidates: Sequence[Candidate], present: Present) -> Decision:
        """Return the best candidate, if it raises the score enough."""
        affordable = [c for c in candidates if now.affords(c)]
        best = max(affordable, key=lambda c: self._score(c, present), default=None)
        if best is None:
            return Decision({}, f"nothing is within the budget of {now.budget}")
        found = f"{best.where} would take eta from {present.diagonal:.3g} to {self._score(best, present):.3g}"
        if not self._score(best, present) > self.tau * present.diagonal:
            return Decision({}, f"{found}, not above {self.tau:g} times")
        if best.kind == "insert":
            return Decision({}, found, blocks=(best.where,))
        return Decision({best.where: best.units}, found)

    def _due(self, now: Situation) -> bool:
        """Whether it is time for another look, the last growth being long enough ago."""
        grew = next((event.epoch for event in reversed(now.history) if event.growths), -math.inf)
        return self.rhythm.due(now) and now.epoch >= grew + self.cooldown - 1e-9

    def _blocks(self, places: Sequence[str]) -> tuple[str, ...]:
        """The last place of every block that has room for a layer."""
        block = {place: place.rpartition(".")[0] for place in places}
        layers, last = Counter(block.values()), {name: place for place, name in block.items()}
        return tuple(place for name, place in last.items() if layers[name] < self.layers)

    def _score(self, candidate: Candidate, present: Present) -> float:
        return discounted(present.diagonal + candidate.diagonal, candidate.params, self.rate)
