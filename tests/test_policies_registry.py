"""Policies by name and the user's own, their options as text, and what is said of wrong ones."""

import re
import sys
from dataclasses import dataclass, replace
from typing import Literal

import pytest

from outgrow.errors import InputError
from outgrow.grow.policies.option import options_in, parsed
from outgrow.grow.policies.proportional import Proportional
from outgrow.grow.policies.registry import POLICIES, options_of, policy_of
from outgrow.grow.policies.schedule import Schedule
from outgrow.grow.policies.senn import Senn
from outgrow.grow.policies.tiny import Tiny
from outgrow.grow.policy import Timetable

RUN = Timetable(events=5, share=0.4, epochs=30, seed=9)

MINE = """
from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from outgrow.grow.policy import Policy


class Never:
    def propose(self, now):
        return None

    def decide(self, now, candidates, present):
        raise AssertionError


class Plain(Never):
    def __init__(self, tau: float, eager: bool = False):
        self.tau, self.eager = tau, eager


class Timed(Never):
    def __init__(self, events, rate):
        self.events, self.rate = events, rate

    @classmethod
    def over(cls, run, rate: int = 3):
        return cls(run.events, rate)


@dataclass(frozen=True)
class Fields(Never):
    events: int = 8
    bounds: tuple[float, ...] = (1.0,)
    name: str | None = None

    @classmethod
    def over(cls, run):
        return cls(events=run.events)


def made(rate=0.5) -> Policy:
    return Plain(rate)


def broken():
    raise RuntimeError("no luck")


def number():
    return 7


THERE = Never()
SEVEN = 7
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "mypolicies.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mypolicies", raising=False)


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_is_made_for_a_run_and_its_options_make_it_again(name):
    policy = policy_of(name, {})(RUN)
    assert policy == POLICIES[name](RUN)
    texts = {option: str(value) for option, value in options_of(policy).items()}
    assert policy_of(name, texts)(Timetable()) == policy


def test_names_and_timetables():
    names = "outgrow, senn, senn-paper, secnn, secnn-paper, gradmax, tiny, firefly, net2net, schedule, random"
    assert ", ".join(POLICIES) == names
    assert policy_of("outgrow", {})(RUN) == Proportional(events=5, share=0.4)
    assert policy_of("random", {})(RUN).seed == 9
    assert policy_of("tiny", {"events": "3"})(RUN) == Tiny(events=3, share=0.4)
    assert policy_of("schedule", {"init": "twins", "most": "1e2"})(RUN) == Schedule(5, 0.4, most=100.0, init="twins")
    assert policy_of("outgrow", {"bounds": "0.5, 2"})(RUN).bounds == (0.5, 2.0)
    assert policy_of("senn", {"depth": "no", "relative": "total"})(RUN) == replace(
        Senn.over(RUN), depth=False, relative="total"
    )


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("best", {}, "unknown policy 'best': choose one of outgrow, senn, .*, random, or name your own as package.mod"),
        ("gradmax", {"rate": "1"}, "policy gradmax has no option 'rate': choose from events=8, share=0.6, factor=1.5"),
        ("gradmax", {"init": "random"}, "policy gradmax has no option 'init'"),
        ("outgrow", {"events": "few"}, "policy outgrow, option events: expected a whole number, received 'few'"),
        ("outgrow", {"events": "2.5"}, "option events: expected a whole number, received '2.5'"),
        ("outgrow", {"price": "nan"}, "option price: expected a number, received 'nan'"),
        ("outgrow", {"bounds": "1"}, "option bounds: expected 2 of these, with commas between: a number, received '1'"),
        ("secnn", {"channels": "2,x"}, "option channels: expected any number of these, .*: a whole number, received"),
        ("senn", {"depth": "maybe"}, "option depth: expected true or false, received 'maybe'"),
        ("schedule", {"init": "best"}, "option init: expected one of random, closed, .*, received 'best'"),
        ("schedule", {"events": "0"}, "events: expected at least one, received 0"),
        ("schedule", {"init": "mixed"}, "init: 'mixed' makes a pool"),
    ],
)
def test_what_is_wrong_is_said(name, options, message):
    with pytest.raises(InputError, match=message):
        policy_of(name, options)


@dataclass(frozen=True)
class Every:
    whole: int = 3
    some: float = 2.5e-9
    flag: bool = True
    text: str = "a b"
    choice: Literal["x", 2] = 2
    pair: tuple[int, float] = (1, 0.5)
    several: tuple[float, ...] = (1.0, 2.0, 3.0)
    none: tuple[int, ...] = ()
    maybe: float | None = None


def test_every_value_that_is_printed_is_read_back():
    for option in options_in(Every()).values():
        assert parsed(str(option.default), option.kind) == option.default
    assert options_of(Every()) == vars(Every())


@pytest.mark.usefixtures("mine")
def test_a_policy_of_the_users_own():
    plain = policy_of("mypolicies:Plain", {"tau": "2", "eager": "yes"})(RUN)
    assert (plain.tau, plain.eager) == (2.0, True)
    timed = policy_of("mypolicies:Timed", {"rate": "4"})(RUN)
    assert (timed.events, timed.rate) == (5, 4)
    fields = policy_of("mypolicies:Fields", {"bounds": "1,2,3", "name": "me"})(RUN)
    assert options_of(fields) == {"events": 5, "bounds": (1.0, 2.0, 3.0), "name": "me"}
    assert policy_of("mypolicies:made", {"rate": "1"})(RUN).tau == 1.0
    there = policy_of("mypolicies:THERE", {})(RUN)
    assert there.propose(None) is None
    assert options_of(there) == {}


@pytest.mark.usefixtures("mine")
@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mypolicies:", {}, "mypolicies:: expected package.module:Policy, such as mypolicies.greedy:Greedy"),
        ("nowhere:Policy", {}, "nowhere:Policy: No module named 'nowhere'; run it where 'import nowhere' works"),
        ("mypolicies:Nothing", {}, "mypolicies:Nothing: module 'mypolicies' has no attribute 'Nothing'"),
        ("mypolicies:Plain", {}, "mypolicies:Plain: .* missing 1 required positional argument: 'tau'"),
        ("mypolicies:Plain", {"tua": "2"}, "policy mypolicies:Plain has no option 'tua': choose from tau, eager=False"),
        ("mypolicies:Timed", {"run": "2"}, "has no option 'run': choose from rate=3"),
        ("mypolicies:Timed", {"rate": "x"}, "option rate: expected a whole number, received 'x'"),
        ("mypolicies:THERE", {"tau": "2"}, "policy mypolicies:THERE has no option 'tau': it has none"),
        ("mypolicies:broken", {}, "mypolicies:broken: expected what makes a policy from its options, .* no luck"),
        ("mypolicies:number", {}, "mypolicies:number: expected a policy, .* propose and decide .* received int"),
        ("mypolicies:SEVEN", {}, "mypolicies:SEVEN: expected a policy, .* received int"),
    ],
)
def test_what_is_wrong_with_ones_own_is_said(name, options, message):
    with pytest.raises(InputError) as error:
        policy_of(name, options)
    assert re.search(message, str(error.value))
    assert "\n" not in str(error.value)
