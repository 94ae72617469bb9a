"""Policies by name and the user's own, their options as text, and what is said of wrong ones."""

import json
import math
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pytest

from outgrow.errors import InputError
from outgrow.grow.policies.proportional import Proportional
from outgrow.grow.policies.schedule import Schedule
from outgrow.grow.policies.senn import Senn
from outgrow.grow.policies.tiny import Tiny
from outgrow.grow.policy import Timetable
from outgrow.option import options_in, parsed
from outgrow.registry import POLICIES, options_of, policy_of

RUN = Timetable(events=5, share=0.4, epochs=30, seed=9)

MINE = """
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fractions import Fraction
    from pathlib import Path

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


@dataclass(frozen=True)
class Untold(Never):  # annotations that can't be read here
    path: Path = PurePath("a/b")
    share: Fraction = 0.5
    call: Callable = print


@dataclass(frozen=True)
class Odd(Never):
    n: int | float = 2
    seen: tuple[dict, ...] = ()


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
        ("gradmax", {"rate": "1"}, "policy gradmax has no option 'rate': choose from events, share, factor, most"),
        ("gradmax", {"init": "random"}, "policy gradmax has no option 'init'"),
        ("outgrow", {"events": "few"}, "policy outgrow, option events: expected a whole number, received 'few'"),
        ("outgrow", {"events": "2.5"}, "option events: expected a whole number, received '2.5'"),
        ("outgrow", {"price": "nan"}, "option price: expected a number, or none, received 'nan'"),
        ("outgrow", {"bounds": "1"}, "option bounds: expected 2 of these, with commas between: a number, received '1'"),
        ("secnn", {"channels": "2,x"}, "option channels: expected any number of these, .*: a whole number, received"),
        ("senn", {"depth": "maybe"}, "option depth: expected true or false, received 'maybe'"),
        ("schedule", {"init": "best"}, "option init: expected one of random, closed, .*, received 'best'"),
        ("schedule", {"events": "0"}, "events: expected at least one, received 0"),
        (
            "outgrow",
            {"init": "foo"},
            "init: expected one of random, closed, gradmax, split, suited, mixed, received 'foo'",
        ),
        (
            "senn",
            {"init": "net2net"},
            "init: expected one of random, closed, gradmax, split, suited, mixed, received 'net2net'",
        ),
        ("outgrow", {"recent": "0"}, "recent: expected at least 1, received 0"),
        ("random", {"depth": "7"}, "depth: expected a chance from 0 to 1, received 7"),
        ("secnn", {"cooldown": "-1"}, "cooldown: expected a number of at least 0, received -1"),
        ("secnn", {"share": "5"}, "share: expected a share of the run above 0 and at most 1, received 5"),
        ("senn", {"share": "-1"}, "share: expected a share of the run above 0 and at most 1, received -1"),
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
def test_what_annotations_do_not_tell_is_read_off_the_values_and_told_as_json_holds_it():
    policy = policy_of("mypolicies:Untold", {"share": "0.25"})(RUN)
    told = options_of(policy)
    assert (told["path"], told["share"]) == (str(Path("a/b")), 0.25)
    assert json.loads(json.dumps(told)) == told
    assert options_of(replace(policy, share=math.inf))["share"] == "inf"


@pytest.mark.usefixtures("mine")
@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def broken(:", "SyntaxError: invalid syntax"),
        ("raise KeyError('no such\\nthing')", "KeyError: .*thing"),
        ("import nowhere", "No module named 'nowhere'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_module_that_can_not_be_imported_is_one_line(code, said):
    Path("broken_policies.py").write_text(code)
    with pytest.raises(
        InputError, match=f"^broken_policies:Policy: {said}.*; run it where 'import broken_policies'"
    ) as e:
        policy_of("broken_policies:Policy", {})
    assert "\n" not in str(e.value)


@pytest.mark.usefixtures("mine")
@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mypolicies:", {}, "mypolicies:: expected package.module:Policy, such as mypolicies.greedy:Greedy"),
        ("nowhere:Policy", {}, "nowhere:Policy: No module named 'nowhere'; run it where 'import nowhere' works"),
        ("mypolicies:Nothing", {}, "mypolicies:Nothing: module 'mypolicies' has no attribute 'Nothing'"),
        ("mypolicies:Plain", {}, "mypolicies:Plain: .* missing 1 required positional argument: 'tau'"),
        ("mypolicies:Plain", {"tua": "2"}, "policy mypolicies:Plain has no option 'tua': choose from tau, eager"),
        ("mypolicies:Timed", {"run": "2"}, "has no option 'run': choose from rate"),
        ("mypolicies:Timed", {"rate": "x"}, "option rate: expected a whole number, received 'x'"),
        ("mypolicies:THERE", {"tau": "2"}, "policy mypolicies:THERE has no option 'tau': it has none"),
        ("mypolicies:broken", {}, "mypolicies:broken: expected what makes a policy from its options, .* no luck"),
        ("mypolicies:number", {}, "mypolicies:number: expected a policy, .* propose and decide .* received int"),
        (
            "mypolicies:Odd",
            {"n": "2.5"},
            r"Odd, option n: its type int \| float can't be read from text; set it in code",
        ),
        ("mypolicies:Odd", {"seen": "1"}, "Odd, option seen: its type dict can't be read from text; set it in code"),
        ("builtins:dict", {"a": "1"}, "policy builtins:dict has no option 'a': it has none"),
        ("builtins:dict", {}, "builtins:dict: expected a policy, .* received dict"),
        ("mypolicies:SEVEN", {}, "mypolicies:SEVEN: expected a policy, .* received int"),
    ],
)
def test_what_is_wrong_with_ones_own_is_said(name, options, message):
    with pytest.raises(InputError) as error:
        policy_of(name, options)
    assert re.search(message, str(error.value))
    assert "\n" not in str(error.value)
