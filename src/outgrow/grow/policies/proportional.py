"""outgrow's default: proportion, tilted by gain per cost, with depth where it pays better than width."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from operator import itemgetter
from statistics import fmean

from outgrow.errors import InputError
from outgrow.grow.event import Candidate, Event
from outgrow.grow.hysteresis import Hysteresis
from outgrow.grow.policies.pace import Pace, filled, is_free, is_growing, least_units, proportional_units, stages
from outgrow.grow.policies.schedule import demand_on_trial
from outgrow.grow.policy import Decision, Plan, Present, Situation, Timetable

PRUNINGS = 3  # events after growth at which units may be given back
PRICE, FREE_PRICE = 1e-7, 1e-6  # of a parameter, where something limits the network and where nothing does
FITTED = 8  # sizes to which the power law is fitted where nothing limits the network
PRUNING_STEP = 0.08  # of the run between two of them, if it is long enough


@dataclass(frozen=True)
class Proportional:
    """Widen all axes in proportion, tilted towards those whose units gain more; outgrow's default.

    Greedy gain per parameter starves the layers whose units are dear and pay later (method.md, section 10), so
    proportion is the prior and the gain tilts it: an axis grows by the common factor to the power of its tilt, which is
    (its gain per cost at the last event / the geometric mean over axes) ^ strength, within `bounds`; cost counts both
    the parameters and the FLOPs that are added. So what is on trial is what will be added, and is judged once.

    With the end of the run known, events are spread evenly over the first `share` of it, and the cost that the budget
    limits grows geometrically from the seed's to the limit. Otherwise each check may grow the parameters by `factor`,
    and more events follow, ever further apart, up to `until` of the run, as long as each one pays.

    An event pays if what is on trial is expected to save `price` nats for each parameter that it adds, by one of two
    accounts. The first is what it is worth now: the candidates' steps alone for each of their parameters, by all looks
    at this size together, less a standard error. That of the sum over axes is the geometric mean of what it is if they
    are independent and if they are one; by luck alone, what is left is above zero at two of a hundred looks at one
    axis, and at nine of a hundred at five. The second is what it will be worth when its own incoming weights have
    learned, which is several times more, and does not show in a step: with the loss L at each size N that the run has
    had, the mean of all looks at that size, on held-out examples where that is told,

        L ~ N^-a,    saved = L (1 - growth^-a),

    a from the last `recent` growths, drawn towards zero as if one doubling more had brought nothing. So growth ends
    where the loss is as good as gone, or where larger networks have stopped to bring it down; and a refusal that was
    noise is not final, since the looks after it tell the loss better.

    Where nothing limits the network, the price alone says how large it becomes. So it is higher, and both accounts are
    stricter: the first takes gains, what the present weights could do as well left out, in place of the steps
    alone; the second takes a and L from the line that fits the last 8 sizes best, since growth ends at the first
    refusal. Where a held-out loss is told, the first event grows the network in any case, since a seed is meant to be
    too small, and that loss shows what it brought.

    The price is relative: `price` times the loss at the first event, so that a loss in another unit lets the same
    network grow. The power law is one of losses whose best value is zero, and takes all that fell between two growths
    for a merit of the first one's parameters, also what training alone did. Where a loss is not above zero, only the
    first account counts, and the price is relative to its absolute value.

    With `stops`, a family of given sizes is wanted: an event for each of them grows the network to it, with as many
    parameters as whole units allow below it, and whatever they are worth, so that each size has a stage of its own.

    With `depth`, a block at each place competes with the units: the best one goes in where its gain less its standard
    error, per parameter, is more than `lead` times that of all units together, and the units are planned again at once.
    With `prune`, three looks after the growth give back what stopped paying, of which the first one lets rest what has
    just grown; see `Hysteresis`. That takes a known `progress`: without one there is no end of the growth.

    Histories go by names, and an insertion into a chain shifts the names of axes behind it: until the next event has
    gains of the new names, axes may have another one's tilt or rest.

    Args:
        factor: Growth of the parameters at an event, where nothing else sets it.
        most: Greatest growth of the cost at one event.
        events: How many events.
        share: Share of the run in which the network grows.
        until: Share of the run up to which it goes on growing where nothing limits it, as long as it pays.
        init: How new units are proposed, by name, see `outgrow.grow.proposals`; the Grower's own way where None.
        price: Share of the loss at the first event that a parameter has to save to be added, and is worth at least
            when it may go; below zero all units on trial are added, whatever they are worth; 1e-7 where something
            limits the network and 1e-6 where nothing does, if None.
        recent: Growths over which the exponent a is seen.
        strength: Exponent of the tilt; 0 for plain proportion.
        bounds: Least and greatest tilt.
        multiple: What sizes are rounded to, from twice of it on.
        depth: Whether blocks are tried, too.
        lead: By how much a block has to gain more for its parameters than the units do.
        prune: Whether units may go again, after the growth.
        stops: Sizes to grow to, one after another [parameters]; with fewer events than these, some are left out.

    Raises:
        InputError: An argument is out of range.
    """

    factor: float = 1.5
    most: float = 3.0
    events: int = 8
    share: float = 0.15
    until: float = 0.6
    init: str | None = "suited"
    price: float | None = None
    recent: int = 3
    strength: float = 0.25
    bounds: tuple[float, float] = (0.6, 1.5)
    multiple: int = 1
    depth: bool = False
    lead: float = 1.0
    prune: bool = False
    stops: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _ = self.pace  # raises
        if self.init is not None:
            demand_on_trial(self.init)
        low, high = self.bounds
        for name, least in (("multiple", 1), ("lead", 0), ("recent", 1), ("strength", 0)):
            if not getattr(self, name) >= least:
                raise InputError(f"{name}: expected at least {least}, received {getattr(self, name)}")
        if self.prune and self.share == 1:
            raise InputError("prune: expected a share of the run below 1, since units go after the growth, received 1")
        if not 0 < low <= 1 <= high:
            raise InputError(
                f"bounds: expected the least tilt in 0..1 and the greatest from 1 on, received {self.bounds}"
            )

    @property
    def pace(self) -> Pace:
        """When events come, and how much they add."""
        return Pace(self.events, self.share, self.factor, self.most, 0.0 if self._at_any_price else self.until)

    @property
    def looks_until(self) -> float:
        """Share of the run after which no look is planned, but for what follows further growth as long as it pays."""
        return self.share + self.prune * PRUNINGS * self._pruning_step

    @property
    def _pruning_step(self) -> float:
        return min(PRUNING_STEP, (1 - self.share) / (PRUNINGS + 1))

    @property
    def _at_any_price(self) -> bool:
        return bool(self.stops) or (self.price is not None and self.price < 0)

    @classmethod
    def over(cls, run: Timetable) -> "Proportional":
        """Return the policy for a run; on a GPU, sizes are multiples of 8, which its matrix units like."""
        return cls(
            events=run.events,
            share=run.share,
            multiple=8 if run.device.startswith("cuda") else 1,
            stops=stages(run.params, run.sizes, cls.most),
        )

    def propose(self, now: Situation) -> Plan | None:
        """Return the units of every axis, tilted by the gains of the last event, when an event is due."""
        pace = self.pace
        deepened = self.depth and _has_just_deepened(now)
        if not deepened and not pace.due(now):
            return self._pruning(now)
        if not now.sizes:
            return Plan({}, "no axis can grow")
        now, growth = self._aim(now)
        units = proportional_units(now, growth, self._tilts(now), self.multiple) or least_units(now)
        units = filled(now, units, 1.0) if growth >= now.budget.room(now.cost) and self.multiple == 1 else units
        if not units:
            return Plan({}, f"the budget of {now.budget} is spent")
        return Plan(units, "due", blocks=now.places() if self.depth and not deepened else (), init=self.init)

    def decide(self, now: Situation, candidates: Sequence[Candidate], present: Present) -> Decision:
        """Return the best block, all units on trial, or what has to go, if they pay for themselves."""
        if any(c.kind == "remove" for c in candidates):
            gone = self._hysteresis(now).decide(now, candidates)
            found = f"{sum(gone.values())} units cost less than they are worth elsewhere"
            return Decision({}, found if gone else "no unit is worth less than it costs", removals=gone)
        wide = [c for c in candidates if c.kind == "widen"]
        least = self._least(now, present.loss)
        if block := self._best_block(now, candidates, least):
            return Decision({}, f"a block gains {_rate([block]):.1e} nats a parameter", (block.where,), again=True)
        added = sum(c.params for c in wide)
        now_worth = added * _worth_now(now, wide)
        worth = max(now_worth, self._later(now, present, added))
        price = least * added
        if not worth > price and not self._at_any_price:
            if wide and is_free(now) and _is_told(now) and not any(event.growths for event in now.history):
                return Decision({c.where: c.units for c in wide}, "a first growth, to see what it brings")
            return Decision(
                {}, f"{added:,} parameters would save {worth:.1e} nats, less than their price of {price:.1e}"
            )
        when = "now" if worth == now_worth else "later"
        return Decision({c.where: c.units for c in wide}, f"{added:,} parameters would save {worth:.1e} nats {when}")

    def _aim(self, now: Situation) -> tuple[Situation, float]:
        """What the next event grows the network to: the situation with that budget, and by what factor [cost]."""
        slot = None if now.progress is None else self.pace.slot(now.progress)
        if not self.stops:
            return now, self.pace.growth(now, slot)
        limits = [min(stop, now.budget.max_params or stop) for stop in self.stops]
        towards = [replace(now, budget=replace(now.budget, max_params=limit)) for limit in limits]
        if slot is None:
            aim = next(filter(least_units, towards), towards[-1])
        else:
            aim = towards[math.ceil(slot * len(towards) / self.events) - 1]
        return aim, aim.budget.room(aim.cost)

    def _least(self, now: Situation, loss: float = math.nan) -> float:
        """What each parameter has to save at least [nats]."""
        price = self.price if self.price is not None else FREE_PRICE if is_free(now) else PRICE
        return price * _scale(now, loss)

    def _later(self, now: Situation, present: Present, added: int) -> float:
        """What added parameters will save once they are trained [nats]: L (1 - growth^-a)."""
        loss = now.held_out if _is_told(now) else present.loss
        if not loss > 0:
            return 0.0
        seen = _losses_by_size(now, loss)
        if is_free(now):
            loss, exponent = _power_law(seen[-FITTED:])
        else:
            fallen, grown = 0.0, math.log(2)
            for (before, log), (after, less) in pairwise(seen[-self.recent - 1 :]):
                if after > before:  # else units went
                    fallen, grown = fallen + log - less, grown + math.log(after / before)
            exponent = fallen / grown
        return loss * (1 - (1 + added / now.cost.params) ** -max(exponent, 0.0))

    def _best_block(self, now: Situation, candidates: Sequence[Candidate], least: float) -> Candidate | None:
        """The block that gains most for its parameters, if that is more than the units do and the least that pays."""
        blocks = [c for c in candidates if c.kind == "insert" and c.gain > c.se and now.affords(c)]
        best = max(blocks, key=lambda block: _rate([block]), default=None)
        wide = [c for c in candidates if c.kind == "widen"]
        return best if best and _rate([best]) > max(self.lead * _rate(wide), least) else None

    def _pruning(self, now: Situation) -> Plan | None:
        """What may go, at some moments after the growth; nothing yet at the first, since newborns rest."""
        if not self.prune or now.progress is None:
            return None
        if is_free(now) and is_growing(now) and now.progress < self.until:
            return None
        known = [(event.progress, event.growths) for event in now.history if event.progress is not None]
        since = max((at for at, growths in known if any(g.kind != "remove" for g in growths)), default=0.0)
        since = max(since, self.share)  # later than that only where nothing limits the network
        if self._look(now.progress, since) <= max((self._look(at, since) for at, _ in known), default=0):
            return None
        gone = self._hysteresis(now).propose(now)
        return Plan({}, "what has stopped paying" if gone else "nothing may go yet", removals=gone)

    def _look(self, progress: float, since: float) -> int:
        """The number of the last pruning look that is due after the end of the growth, from 1; 0 before the first."""
        return min(max(math.floor((progress - since) / self._pruning_step + 1e-9), 0), PRUNINGS)

    def _hysteresis(self, now: Situation) -> Hysteresis:
        return Hysteresis(rest=1, price=max(self._least(now), 0.0))

    def _tilts(self, now: Situation) -> dict[str, float]:
        """Return how each axis's growth is tilted, by the last event that had gains.

        The gain counts per cost, the cost being its share of the added parameters plus its share of the added FLOPs.
        """
        last = next(filter(None, (_judged_units(event, now.sizes) for event in reversed(now.history))), [])
        params, flops = sum(c.params for c in last), sum(c.flops for c in last)
        least = 1e-9 * max((max(c.gain, c.se) for c in last), default=0.0) or 1.0
        rates = {
            c.where: max(c.gain, c.se, least) / (c.params / max(params, 1) + c.flops / max(flops, 1)) for c in last
        }
        mean = math.exp(sum(map(math.log, rates.values())) / max(len(rates), 1))
        low, high = self.bounds
        tilts = {axis: min(max((rate / mean) ** self.strength, low), high) for axis, rate in rates.items()}
        return {**dict.fromkeys(now.sizes, 1.0), **tilts}


def _losses_by_size(now: Situation, loss: float) -> list[tuple[int, float]]:
    """The sizes of the run so far [parameters], each with the mean log of the losses of all looks at it."""
    told = _is_told(now)
    looks = [(event.params_before, event.held_out if told else event.loss) for event in now.history]
    looks.append((now.cost.params, loss))
    known = [(params, math.log(loss)) for params, loss in looks if loss > 0]
    return [(params, fmean(log for _, log in same)) for params, same in groupby(known, key=itemgetter(0))]


def _is_told(now: Situation) -> bool:
    """Whether the loss on held-out examples is told."""
    return not math.isnan(now.held_out)


def _power_law(seen: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """The loss at the last of some sizes, and the exponent, by least squares in logarithms."""
    sizes, logs = [math.log(params) for params, _ in seen], [log for _, log in seen]
    x, y = fmean(sizes), fmean(logs)
    squares = sum((size - x) ** 2 for size in sizes) + math.log(2) ** 2  # drawn towards zero
    exponent = -sum((size - x) * (log - y) for size, log in zip(sizes, logs, strict=True)) / squares
    return math.exp(y - exponent * (sizes[-1] - x)), exponent


def _scale(now: Situation, loss: float = math.nan) -> float:
    """What prices are relative to: the size of the first loss that is known, `loss` being the present one, else 1."""
    losses = (*(event.loss for event in now.history), loss)
    return next((abs(one) for one in losses if not math.isnan(one)), 1.0)


def _judged_units(event: Event, sizes: Mapping[str, int]) -> list[Candidate]:
    """The units that an event judged, on axes that are there."""
    return [c for c in event.candidates if c.kind == "widen" and c.where in sizes and not math.isnan(c.gain)]


def _worth_now(now: Situation, wide: Sequence[Candidate]) -> float:
    """What steps alone, or without a limit gains, are worth now for each parameter, less a standard error [nats]."""
    looks = [_judged_units(event, now.sizes) for event in now.history if event.params_before == now.cost.params]
    looks.append(list(wide))
    known = [[(c.gain, c.se) if is_free(now) else (c.alone, c.alone_se) for c in look] for look in looks]
    params = sum(c.params for look in looks for c in look)
    errors = [math.sqrt(sum(se for _, se in look) * math.hypot(*(se for _, se in look))) for look in known]
    return (sum(gain for look in known for gain, _ in look) - math.hypot(*errors)) / max(params, 1)


def _rate(candidates: Sequence[Candidate]) -> float:
    """What candidates gain together for each of their parameters, less the standard error [nats]."""
    gain = sum(c.gain for c in candidates) - math.sqrt(sum(c.se**2 for c in candidates))
    return gain / max(sum(c.params for c in candidates), 1)


def _has_just_deepened(now: Situation) -> bool:
    """Whether the last event tried a block at this very moment, and added no units."""
    last = now.history[-1] if now.history else None
    if last is None or (last.epoch, last.progress) != (now.epoch, now.progress):
        return False
    return any(c.kind == "insert" for c in last.candidates) and not any(g.kind == "widen" for g in last.growths)
