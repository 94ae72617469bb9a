"""The page on how a network decides to grow: its example runs, its numbers are those of the results."""

import importlib.util
import json
import re
from pathlib import Path

import pytest
import torch

from outgrow.grow.score import increase

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "how-a-network-decides-to-grow.md").read_text()
FIGURE = ROOT / "docs" / "figures" / "gain.svg"
SPEC = importlib.util.spec_from_file_location("tables", ROOT / "benchmarks" / "tables.py")
tables = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(tables)

NUMBER = r"\d+\.\d+"
SHOWN = re.compile(rf"axis (\d): gradient ({NUMBER}), gain ({NUMBER}) \+- ({NUMBER}), came (-?{NUMBER})")


def example():
    """A growth of each of two networks at each of three checks."""
    keys = ("gain", "alone", "score", "bound", "gradient", "params", "units", "realised", "fresh", "se")
    for case in ("one", "other"):
        for event in range(3):
            value = float(event + 1 + (case == "other"))
            losses = {key: {"held_out": value * i} for i, key in enumerate(("loss_grown", "loss", "loss_twin"))}
            about = {"case": case, "seed": 0, "event": event, "check_seconds": 1.0, "epoch_seconds": 2.0}
            yield {**dict.fromkeys(keys, value / 10), **losses, **about, "hardware": "", "commit": "", "torch": "2"}


def test_the_example_says_when_and_where(printed):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    result = printed(code)
    for text in (result, PAGE):
        now = [float(value) for value in re.findall(rf"gain_now ({NUMBER})", text)]
        first, second, later_first, later_second = [tuple(map(float, found)) for found in SHOWN.findall(text)]
        assert now[0] > 2 * max(first[2], second[2])  # early the present weights are worth most
        assert later_first[2] > 2 * later_first[3] > 0  # later the bottleneck
        assert later_first[2] > 10 * max(now[1], later_second[2])
        assert 0.75 < later_first[4] / later_first[2] < 1.33
    assert len(result.splitlines()) == 6


@pytest.mark.parametrize("line", re.findall(r"^\| ((?:nearly|something|the same).*) \|$", PAGE, re.MULTILINE))
def test_the_three_proposals_are_worth_what_the_page_says(line):
    size, together, gradient, curved, score = map(float, line.split(" | ")[1:])
    A = torch.tensor([[1, together], [together, size]], dtype=torch.float64)
    G = torch.tensor([[0.5, gradient]], dtype=torch.float64)
    found = increase(A, torch.eye(1, dtype=torch.float64), G, torch.tensor([0]), torch.tensor([1]))
    assert found.score / 2 == pytest.approx(score, abs=5e-5)
    assert gradient**2 / (2 * size) == pytest.approx(curved, abs=5e-5)


@pytest.mark.parametrize("page", tables.PAGES, ids=lambda page: page.name)
def test_pages_show_the_tables_of_the_results(page):
    found = tables.measured()
    assert tables.filled(page.read_text(), found) == page.read_text()
    assert set(re.findall(r"<!-- /([\w-]+) -->", page.read_text())) <= set(found)


def test_the_figure_has_a_panel_for_every_network():
    text = FIGURE.read_text()
    assert len(text) < 300_000
    for case in {growth["case"] for growth in tables.records("calibration")}:
        assert f">{case}</text>" in text


def test_rank_correlations_see_order_only_and_share_ties():
    assert tables.rank_correlation([1, 2, 2, 9], [0, 5, 5, 6]) == pytest.approx(1)
    assert tables.rank_correlation([1, 2, 2, 3], [1, 2, 3, 4]) == pytest.approx(0.9**0.5)
    assert tables.rank_correlation([1, 2, 3], [-1, -20, -21]) == pytest.approx(-1)


def test_the_fresh_drops_of_a_kept_promise_are_its_gains():
    growths = list(example())
    assert tables.fresh(growths) == "1.00 +- 0.00"
    assert tables.kept(growths) == ["6", "1.00 (1.00 to 1.00)", "100 %"]


def test_a_measure_that_orders_growths_as_they_come_out_ranks_best():
    found = tables.correlations([{**one, "params": -one["params"]} for one in example()], "drop over an epoch")
    assert found["gain"] == pytest.approx(1)
    assert found["parameters"] == pytest.approx(-1)


def test_a_figure_is_the_same_for_the_same_results():
    growths = json.loads(json.dumps(list(example())))
    assert tables.svg(tables.drawn(growths)) == tables.svg(tables.drawn(growths))
