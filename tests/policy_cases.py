"""What a policy sees, made of numbers: situations, candidates and events of a network of two axes."""

import math

from outgrow.grow.budget import Budget, Cost
from outgrow.grow.event import Candidate, Event, Growth
from outgrow.grow.policy import Present, Situation

SIZES = {"a": 8, "b": 16}
LIMITED = Budget(max_params=20_000)


def cost_with(units, sizes=SIZES):
    a, b = (size + units.get(axis, 0) for axis, size in sizes.items())
    params = 20 * a + a * b + 5 * b
    return Cost(params, 2 * params)


def situation(**known):
    return Situation(**{"sizes": SIZES, "cost": cost_with({}), "cost_with": cost_with, "progress": 0.3, **known})


def limited(**known):
    return situation(**{"budget": LIMITED, **known})


def candidate(where="a", params=100, gain=0.0, se=0.0, alone=0.0, alone_se=0.0, kind="widen", units=2):
    return Candidate(kind, where, units, params, 2 * params, gain, se, gain, alone, alone_se, 0.0, 0.0, 0.0)


def event(number=1, params=400, loss=math.nan, candidates=(), growths=(), progress=0.1, epoch=1.0):
    return Event(number, 0.0, candidates, growths, params, params, "", 0.0, 0, progress, epoch=epoch, loss=loss)


def present(loss=math.nan):
    return Present(0.0, 0.0, math.nan, math.nan, loss)


GROWN = Growth("widen", "a", 4, 4, 8, 0.001, 0.0, 0.001, 0.0, 100)
