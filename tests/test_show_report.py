"""The report: one page that holds everything, escapes everything, and reads its numbers back."""

import json
import math
import re
from html.parser import HTMLParser
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from outgrow.errors import InputError
from outgrow.show import plots, quantity
from outgrow.show.bands import spread
from outgrow.show.record import of_kind
from outgrow.show.report import write_report
from test_show_records import BLOCK, REMOVAL, UNSEEN, family, story

VOID = {"meta", "link", "br"}
EVIL = "</script><script>alert('{}')</script><b onclick=\"x\">&$\\frac$"


class Page(HTMLParser):
    """What a page holds: its elements, its text, what it refers to; its tags must be balanced."""

    def __init__(self, source):
        super().__init__()
        self.tags, self.open, self.refers, self.ids, self.handlers, self.scripts, self.words = (
            [],
            [],
            [],
            [],
            [],
            {},
            [],
        )
        self.feed(source)
        self.close()
        assert self.open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.refers += [value for name, value in attrs if name in {"src", "href", "xlink:href", "action", "srcset"}]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append((tag, dict(attrs).get("id")))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if self.open and self.open[-1][0] == "script":
            self.scripts[self.open[-1][1]] = self.scripts.get(self.open[-1][1], "") + data
        elif not self.open or self.open[-1][0] != "style":
            self.words.append(data)


@pytest.fixture
def make(tmp_path):
    """Write a run folder and its report; return the folder, the page and its source."""

    def report(records, with_family=True, config=None, tail=b""):
        run = tmp_path / "mine"
        run.mkdir(exist_ok=True)
        (run / "journal.jsonl").write_bytes("".join(json.dumps(record) + "\n" for record in records).encode() + tail)
        if with_family:
            (run / "family.json").write_text(json.dumps(family(records)))
        if config is not None:
            (run / "config.json").write_text(json.dumps(config))
        assert write_report(run) == run / "report.html"
        source = (run / "report.html").read_text(encoding="utf-8")
        return run, Page(source), source

    return report


CASES = {
    "grown": {},
    "regression": {"metric": "rmse"},
    "nothing grew": {"every": 0},
    "one epoch": {"epochs": 1, "every": 0, "axes": 1},
    "two axes": {"axes": 2, "epochs": 30},
    "forty axes": {"axes": 40, "names": "encoder.layers.{}.mlp.fc1"},
    "evil": {"names": EVIL, "data": EVIL},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_report_is_one_whole_page(make, case):
    records = list(story(**case))
    run, page, source = make(records, config={"command": ["outgrow", "grow", "my data"], "note": EVIL})
    assert [reference for reference in page.refers if not reference.startswith(("#", "data:"))] == []
    assert re.findall(r"url\((?!#)", source) == []
    assert page.handlers == []
    assert page.tags.count("script") == 2
    assert page.tags.count("svg") == 4
    assert len(page.ids) == len(set(page.ids))
    assert {reference[1:] for reference in page.refers if reference.startswith("#")} <= set(page.ids)
    assert "outgrow grow 'my data'" in page.text
    content = json.loads(page.scripts["outgrow-data"])
    assert content["journal"] == records
    assert content["family"] == family(records)
    for size in of_kind(records, "size"):
        assert size["name"] in page.text
        assert f'outgrow.load("{run.as_posix()}", max_params={size["params"]})' in page.text


def test_every_event_has_its_numbers(make):
    records = list(story(epochs=30, every=2))
    _, page, _ = make(records)
    for event in of_kind(records, "event"):
        if not event["growths"]:
            assert f"{event['event']} {event['epoch']:.1f} nothing changed: {event['reason']}" in page.text
        for growth in event["growths"]:
            sizes = f"{growth['size_before']} → {growth['size_after']}"
            row = f"{event['event']} {event['epoch']:.1f} grew {growth['where']} {sizes} "
            row += quantity.gain(growth["gain"], growth["se"], "±")
            row += f" {growth['realised']:.4f} 2e-07 +{growth['params']:,}"
            assert row in page.text


def test_the_headline_is_the_largest_size(make):
    records = list(story(epochs=30, every=2))
    _, page, _ = make(records)
    largest = max(of_kind(records, "size"), key=lambda size: size["params"])
    assert f"test accuracy {100 * largest['test']['accuracy']:.2f} % of the largest size" in page.text
    assert "5.0 % of the time" in page.text


def test_the_settings_are_words_for_people(make):
    config = {
        "format": 1,
        "command": "outgrow grow t.csv --target y",
        "options": {"data": "t.csv", "widths": []},
        "data": {"columns": [{"name": "age", "kind": "number"}] * 14, "features": ["age"] * 108},
        "encoding": {"columns": [{"name": "age", "kind": "number"}] * 14, "features": ["age"] * 108},
        "seed_network": {"model": "mlp", "input_mean": [0.5] * 108},
        "recipe": {"epochs": 41, "batch_size": 128, "rate": 0.003, "warmup": None, "mirrors": True},
        "versions": {"torch": "2.13.0"},
    }
    _, page, _ = make(list(story()), config=config)
    content = page.text[page.text.index("How it was run") :]
    assert "recipe epochs 41, batch_size 128, rate 0.003, mirrors yes" in content
    assert "encoding columns 14 entries, features 108 entries" in content
    assert content.count("versions") == 1
    for word in ("{", "[", "format", "options", "seed_network", "input_mean", "null", "None"):
        assert word not in content


@pytest.mark.parametrize("measured", [True, False])
def test_energy_is_told_where_it_is_known(make, measured):
    records = list(story())
    for size in of_kind(records, "size"):
        size["joules"] = size["joules"] if measured else None
    run, page, _ = make(records)
    if not measured:
        told = family(records)
        told["total"]["joules"] = None
        (run / "family.json").write_text(json.dumps(told))
        page = Page(write_report(run).read_text(encoding="utf-8"))
    text = page.text.replace(run.as_posix(), "")
    assert ("energy" in text) == ("modelled" in text) == measured
    assert "n/a" not in text


@pytest.mark.parametrize("metric", ["accuracy", "rmse"])
def test_only_a_cross_entropy_is_in_nats(make, metric):
    records = list(story(epochs=30, every=2, metric=metric))
    for event in of_kind(records, "event"):
        event["reason"] = "8 parameters would save 2.0e-03 nats, less than their price of 4.0e-03"
    _, page, source = make(records)
    assert ("nats" in page.text) == (metric == "accuracy")
    assert ("nats" in source.split("outgrow-data")[0]) == (metric == "accuracy")
    assert "would save 2.0e-03" in page.text


def test_both_themes_and_a_phone_are_provided_for(make):
    _, _, source = make(list(story()))
    assert "@media (prefers-color-scheme: dark)" in source
    assert 'name="viewport"' in source
    stand_ins = re.findall(r"#0101[0-9a-f]{2}", source)
    assert stand_ins == []
    for variable in set(re.findall(r"var\(--([a-z]+)", source)):
        assert source.count(f"--{variable}: #") == 2  # once in light, once in dark


def test_the_same_run_gives_the_same_bytes(make):
    records = list(story())
    run, _, first = make(records)
    assert write_report(run).read_text(encoding="utf-8") == first
    assert not list(run.glob("*.part"))


@pytest.mark.parametrize("tail", [b'{"record": "epo', b'{"record": "size", "name": "\xc3', b"\n\n"])
def test_a_half_written_last_line_is_left_out(make, tail):
    records = list(story(ends=False))
    _, page, _ = make(records, with_family=False, tail=tail)
    assert json.loads(page.scripts["outgrow-data"])["journal"] == records
    assert "still running or broke off" in page.text
    assert all(size["name"] in page.text for size in of_kind(records, "size"))


def test_a_report_after_the_first_second_of_a_run(make):
    start = next(iter(story()))
    needed = {
        key: start[key] for key in ("record", "data", "task", "metric", "model", "params", "axes", "epochs", "steps")
    }
    _, page, _ = make([needed], with_family=False)
    assert "No size was saved." in page.text
    assert "No check was made." in page.text


def test_numbers_that_are_none_are_drawn_over(make):
    records = list(story())
    records[2] |= {"train_loss": math.nan, "validation": {"loss": math.inf, "accuracy": None}}
    for event in of_kind(records, "event"):
        for growth in event["growths"]:
            growth |= {"realised": None, "se": None, "moved": None}
    _, page, _ = make(records)
    assert json.loads(page.scripts["outgrow-data"])["journal"][2]["train_loss"] is None
    assert "± n/a" in page.text


def test_a_growth_in_depth_is_told(make):
    records = list(story())
    of_kind(records, "event")[0]["growths"].append(BLOCK)
    _, page, _ = make(records)
    assert "inserted a block behind block1 0.0210 ± 0.0030 0.0200 0e+00 +900" in page.text


def test_removals_are_told_by_what_they_cost(make):
    records = list(story())
    events = of_kind(records, "event")
    events[0]["growths"] = [REMOVAL, REMOVAL | {"where": "block0.conv1"}]
    _, page, _ = make(records)
    assert "shrank conv1 24 → 20 -0.00031 ± 0.00022 3e-03 -1,152" in page.text
    assert "2 removals cost 6.2e-04 nats and gave back 2,304 parameters." in page.text
    assert "2 growths promised" in page.text
    assert "<title>event 1: shrank conv1 24" in plots.losses(records)
    assert "2 growths, 1 removal marked" in plots.losses(records)
    assert "shrank" not in plots.gains(events)


def test_growths_that_nobody_judged_are_shown_without_promise(make):
    records = list(story())
    for event in of_kind(records, "event"):
        event["growths"] = [UNSEEN]
    _, page, _ = make(records)
    assert "grew conv1 20 → 24 not judged 1e-07 +1,152" in page.text
    assert "No growth yet whose gain was measured." in page.text
    assert "no growth was judged" in plots.gains(of_kind(records, "event"))
    assert "None" not in page.text


def test_the_settings_name_the_limits_and_the_policy_with_its_options(make):
    records = list(story())
    records[0] |= {"max_params": None, "max_flops": 200_000, "max_latency": 0.002, "policy": "senn"}
    config = {"command": "outgrow grow digits", "policy": {"name": "senn", "options": {"tau": 2.0, "prune": False}}}
    for told, shown in ((config, "senn: tau 2.0, prune no"), ({}, "senn")):
        _, page, _ = make(records, config=told)
        assert f"limits 200 kFLOPs an example, 2 ms an example policy {shown} length" in page.text


def damage(folder, name, text):
    (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (None, "", r"no journal\.jsonl in it; expected a run folder"),
        ("journal.jsonl", "", "no start record; expected a run folder"),
        ("journal.jsonl", "a log of something else\n", "no start record"),
        ("journal.jsonl", '{"record": "start"}\n', "line 1: the start record lacks data, task"),
        ("journal.jsonl", "{broken\n[]\n", r"line 1: expected a JSON object, got b'\{broken'"),
        ("journal.jsonl", "[1]\n", "line 1: expected a JSON object"),
        ("family.json", "{", "family.json: expected a JSON object, but it is damaged"),
        ("family.json", "[]", "family.json: expected a JSON object, got list"),
        ("family.json", '{"sizes": [{"name": "a"}]}', "family.json: the size record lacks params"),
        ("family.json", '{"sizes": 3}', "expected a list of sizes"),
        ("config.json", "\x00", "config.json: expected a JSON object"),
    ],
)
def test_what_is_no_run_folder_is_refused_in_one_line(tmp_path, name, text, message):
    if name not in {None, "journal.jsonl"}:
        damage(tmp_path, "journal.jsonl", json.dumps(next(iter(story()))) + "\n")
    if name is not None:
        damage(tmp_path, name, text)
    with pytest.raises(InputError, match=message) as caught:
        write_report(tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "report.html").exists()


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        write_report(tmp_path / "absent")


def test_a_report_that_cant_be_written_leaves_nothing_behind(make):
    run, _, _ = make(list(story()))
    (run / "report.html").unlink()
    (run / "report.html").mkdir()
    with pytest.raises(InputError, match="can't be written"):
        write_report(run)
    assert not list(run.glob("*.part"))


PICTURES = {
    "front": lambda records: plots.front(of_kind(records, "size"), records[0]["metric"]),
    "widths": plots.widths,
    "losses": plots.losses,
    "gains": lambda records: plots.gains(of_kind(records, "event")),
}


@pytest.mark.parametrize("draw", PICTURES.values(), ids=PICTURES)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_picture_is_an_element_of_its_own(draw, case):
    svg = draw(list(story(**case)))
    element = ElementTree.fromstring(svg)
    assert element.tag.endswith("svg")
    assert element.get("aria-label")
    assert float(element.get("viewBox").split()[2]) >= 430
    assert draw(list(story(**case))) == svg


def test_hovering_tells_the_numbers():
    records = list(story())
    text = PICTURES["front"](records)
    for size in of_kind(records, "size"):
        assert f"<title>{size['name']}: {size['params']:,} parameters, test accuracy" in text
    assert "<title>block3.conv1: 8" in plots.widths(records)


def test_of_many_bands_the_widest_are_named():
    svg = plots.widths(list(story(axes=40)))
    assert re.search(r"and \d+ narrower", svg)
    assert svg.count("→") > 2


def test_labels_keep_their_distance():
    places = spread([0.0, 0.1, 0.2, 7.0, 9.9, 10.0], 1.0, 0.0, 10.0)
    assert all(upper - lower >= 1 - 1e-12 for lower, upper in pairwise(places))
    assert min(places) >= 0
    assert max(places) <= 10
