"""The page on policies: its own policy runs as it stands, in a run and in a loop, and it names all that there is."""

import importlib.util
import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from outgrow.cli import main
from outgrow.grow.budget import Budget, Cost
from outgrow.grow.event import Candidate, Event
from outgrow.grow.policy import Present, Situation, Timetable
from outgrow.registry import POLICIES, options_of

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "policies.md").read_text()
POLICY, LOOP = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
RUN = next(line for line in PAGE.splitlines() if "mypolicies:BestPerFlop" in line)
SECTIONS = dict(re.findall(r"^### (\S+)\n(.*?)(?=^##)", PAGE, re.DOTALL | re.MULTILINE))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("policies")
    (path / "mypolicies.py").write_text(POLICY)
    return path


@pytest.fixture(scope="module")
def best_per_flop(folder):
    spec = importlib.util.spec_from_file_location("mypolicies_of_the_page", folder / "mypolicies.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module.BestPerFlop
    del sys.modules[spec.name]


def situation(epoch=1.0, history=(), budget=None):
    def cost_with(units):
        return Cost(100, 1_000 + 10 * units.get("a", 0) + 100 * units.get("b", 0))

    return Situation(
        {"a": 40, "b": 4}, cost_with({}), cost_with, epoch=epoch, history=history, budget=budget or Budget()
    )


def candidate(where, flops, gain, se=0.0):
    return Candidate("widen", where, 4, 40, flops, gain, se, gain, gain, se, gain, gain, gain)


def test_the_policy_of_the_page_is_as_long_as_it_says(best_per_flop):
    assert len(POLICY.splitlines()) <= 30
    assert best_per_flop().propose(situation()).units == {"a": 4, "b": 1}


def test_it_looks_once_an_epoch_and_within_the_budget(best_per_flop):
    event = Event(1, None, (), (), 100, 100, "", 0.0, 0, epoch=1.2)
    policy = best_per_flop()
    due = [epoch for epoch in (0.0, 0.5, 1.0) if policy.propose(situation(epoch))]
    again = [epoch for epoch in (1.5, 1.9, 2.0) if policy.propose(situation(epoch, [event]))]
    assert (due, again) == ([1.0], [2.0])
    assert policy.propose(situation(budget=Budget(max_flops=1_050))).units == {"a": 4}
    assert not policy.propose(situation(budget=Budget(max_flops=1_030)))


def test_it_takes_what_gains_most_per_flop_as_long_as_it_pays(best_per_flop):
    offered = [candidate("a", 40, 0.01), candidate("b", 400, 0.02), candidate("c", 4, 0.02, se=0.03)]
    for order in (offered, offered[::-1]):
        assert best_per_flop().decide(situation(), order, Present(0, 0, 0, 0)).units == {"a": 4}
    assert best_per_flop(price=1e-3).decide(situation(), offered, Present(0, 0, 0, 0)).units == {}
    assert best_per_flop().decide(situation(), [], Present(0, 0, 0, 0)).units == {}


def test_a_run_takes_it_by_name(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.delitem(sys.modules, "mypolicies", raising=False)
    assert main([*shlex.split(RUN)[1:], "--model", "mlp", "--max-flops", "3k", "--out", "run"]) == 0
    assert "policy mypolicies:BestPerFlop" in capsys.readouterr().out
    assert json.loads(Path("run/config.json").read_text())["policy"] == {
        "name": "mypolicies:BestPerFlop",
        "options": {"step": 0.25, "price": 1e-9},
    }
    records = [json.loads(line) for line in Path("run/journal.jsonl").read_text().splitlines()]
    events = [record for record in records if "event" in record]
    assert records[0]["policy"] == "mypolicies:BestPerFlop"
    assert [int(event["epoch"]) for event in events] == list(range(1, len(events) + 1))
    growths = [growth for event in events for growth in event["growths"]]
    assert growths
    assert all(len(event["growths"]) <= 1 for event in events)
    assert json.loads(Path("run/family.json").read_text())["sizes"][-1]["flops"] <= 3_000
    del sys.modules["mypolicies"]


def test_a_loop_takes_it_as_it_is(folder, printed, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "mypolicies", raising=False)
    result = printed(LOOP)
    assert len(result.splitlines()) == 5
    assert "grew 0 4 -> 6" in result
    del sys.modules["mypolicies"]


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_has_its_paragraph_and_every_option_its_word(name):
    text = SECTIONS[name.removesuffix("-paper")]
    assert not name.endswith("-paper") or f"`{name}`" in text
    if "those of `schedule`" in text:
        text += SECTIONS["schedule"]
    for option in options_of(POLICIES[name](Timetable())):
        assert f"`{option}`" in text


def test_the_help_names_every_policy(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["grow", "--help"])
    words = set(re.findall(r"[\w-]+", capsys.readouterr().out))
    assert set(POLICIES) <= words


def test_the_command_of_the_page_is_understood(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = next(line for line in PAGE.splitlines() if line.startswith("outgrow grow digits --out runs/senn"))
    assert main([*shlex.split(shown)[1:], "--model", "mlp", "--epochs", "1"]) == 0
