"""The report: one page that holds everything, escapes everything, and reads its numbers back."""

import errno
import json
import math
import os
import re
from pathlib import Path

import pytest

from outgrow.errors import InputError
from outgrow.show import quantity
from outgrow.show.record import of_kind, pareto
from outgrow.show.report import write_report
from outgrow.show.run import read_run
from outgrow.show.spending import spent
from report_page import Page
from test_show_records import BLOCK, REMOVAL, UNSEEN, comparison, family, story

EVIL = "</script><script>alert('{}')</script><b onclick=\"x\">&$\\frac$"


@pytest.fixture
def make(tmp_path):
    """Write a run folder and its report; return the folder, the page and its source."""

    def report(records, with_family=True, config=None, tail=b"", compared=None):
        run = tmp_path / "mine"
        run.mkdir(exist_ok=True)
        (run / "journal.jsonl").write_bytes("".join(json.dumps(record) + "\n" for record in records).encode() + tail)
        if with_family:
            (run / "family.json").write_text(json.dumps(family(records)))
        if compared is not None:
            (run / "compare.json").write_text(json.dumps(compared))
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
    assert len(page.ids) == len(set(page.ids))
    assert {reference[1:] for reference in page.refers if reference.startswith("#")} <= set(page.ids)
    assert "outgrow grow 'my data'" in page.text
    content = json.loads(page.scripts["outgrow-data"])
    assert content["journal"] == records
    assert content["family"] == family(records)
    for size in of_kind(records, "size"):
        assert size["name"] in page.text
        assert f'outgrow.Family("{run.as_posix()}")["{size["name"]}"].load()' in page.text


def test_every_event_has_its_numbers(make):
    records = list(story(epochs=30, every=2))
    _, page, _ = make(records)
    for event in of_kind(records, "event"):
        if not event["growths"]:
            told = f"{event['event']} nothing changed epoch {event['epoch']:.1f}, step {event['step']:,}"
            assert told in page.text
            assert event["reason"] in page.text
        for growth in event["growths"]:
            change = f"grew {growth['where']} {growth['size_before']} → {growth['size_after']}"
            params = f"+{growth['params']:,}"
            assert f"{event['event']} {change} , {params} parameters" in page.text.replace(", +", " , +")
            row = f"{change} {quantity.gain(growth['gain'], growth['se'], '±')}"
            assert f"{row} {growth['realised']:.4f} 2e-07 {params}" in page.text
            assert f"{event['reason']}; {event['params_after']:,} parameters from then on" in page.text


def test_candidates_that_were_refused_stand_with_their_event(make):
    records = list(story())
    events = of_kind(records, "event")
    taken = events[0]["candidates"][0]
    events[0]["candidates"] += [
        taken | {"where": "elsewhere", "gain": 1e-3, "se": 5e-4},
        taken | {"where": "unasked", "gain": None, "se": None},
        taken | {"where": "block9", "kind": "insert", "units": 1, "gain": 2e-3, "se": 1e-3, "params": 77},
    ]
    _, page, _ = make(records)
    rows = "add a block at block9 0.0020 ± 0.0010 +77 "
    rows += f"add {taken['units']} units at elsewhere 0.00100 ± 0.00050 +{taken['params']} "
    assert rows + f"add {taken['units']} units at unasked not judged" in page.text
    assert f"at {taken['where']} " not in page.text


def test_the_headline_says_what_the_best_size_reaches_and_what_it_cost(make):
    records = list(story(epochs=30, every=2))
    _, page, _ = make(records, config={"command": "outgrow grow digits"})
    best = pareto(of_kind(records, "size"), "accuracy")[-1]
    accuracy, now = f"{100 * best['test']['accuracy']:.2f} %", max(size["params"] for size in of_kind(records, "size"))
    best = "largest size" if best["params"] == now else f"best size, {best['params']:,} parameters,"
    sentence = f"Starting as convnet, it grew from {records[0]['params']:,} to {now:,} parameters;"
    assert f"{sentence} its {best} reaches a test accuracy of {accuracy}." in page.text
    spent = f"{quantity.duration(records[-1]['seconds'])} and {quantity.short(20 * records[-1]['seconds'], 'J')}"
    assert f"It took 1 TFLOPs, {spent} (modelled); 5.0 % of the time went into checks." in page.text
    assert page.text.count("outgrow grow digits") == 2


@pytest.mark.parametrize("reason", ["finished", "interrupted", "the loss was no longer finite at step 7"])
def test_a_run_that_ended_early_says_so_at_the_top(make, reason):
    records = list(story())
    records[-1]["reason"] = reason
    _, page, _ = make(records)
    assert (f"The run ended early: {reason}." in page.text) == (reason != "finished")


@pytest.mark.parametrize("model", ["convnet", "mine.nets:small"])
def test_every_size_says_how_it_is_loaded_and_exported(make, model):
    records = list(story())
    records[0]["model"] = model
    run, page, _ = make(records)
    content = page.text[page.text.index("How to load a size") :]
    seed, option = ('"mine.nets:small"', " --model mine.nets:small") if ":" in model else ("", "")
    for size in of_kind(records, "size"):
        told = f"{size['name']}, {size['params']:,} parameters "
        told += f'outgrow.Family("{run.as_posix()}")["{size["name"]}"].load({seed}) copy '
        assert f"{told}outgrow export {run.as_posix()} --size {size['name']} --format onnx{option} copy" in content


def test_a_size_that_was_finished_says_so_and_keeps_its_moment(make):
    records = list(story())
    first = of_kind(records, "size")[0]
    end = records.pop()
    records += [end, first | {"quality": "branch", "epoch": 99.0}]
    run, page, source = make(records, with_family=False)
    assert (
        f"{quantity.duration(first['seconds'])} {quantity.short(first['joules']['value'], 'J')} trained further"
        in page.text
    )
    assert re.search(rf'aria-label="{first["name"]};[^"]*trained further', source)
    assert read_run(run).saved_at[first["name"]] == first["epoch"]


def test_a_sweep_stands_beside_the_family(make):
    records = list(story(epochs=30, every=3))
    _, page, _ = make(records, compared=comparison(records))
    assert "compute 25.0 % of the sweep the family 100 GFLOPs by themselves 400 GFLOPs" in page.text
    assert "time 30.0 % of the sweep the family 30 s by themselves 1 min 40 s" in page.text
    assert "energy" not in page.text[page.text.index("Beside a sweep") : page.text.index("The events")]
    assert "trained alone, 30 epochs" in page.text
    assert json.loads(page.scripts["outgrow-data"])["comparison"]["chosen"] == 30
    _, page, _ = make(records, compared={})
    assert "Beside a sweep" not in page.text


@pytest.mark.parametrize(("chosen", "told"), [(15, "the shortest length that is enough"), (30, "the longest that was")])
def test_only_a_length_that_is_enough_is_called_so(make, chosen, told):
    records = list(story(epochs=30, every=3))
    _, page, _ = make(records, compared=comparison(records) | {"chosen": chosen})
    assert f"each for {chosen} epochs: {told}" in page.text


def test_the_parts_of_a_total_add_up(make):
    records = list(story())
    records[-1] |= {"branch_flops": 2 * 10**11, "branch_seconds": 1.0}
    run, _, _ = make(records, with_family=False)
    page = Page(write_report(run).read_text(encoding="utf-8"))
    assert "compute 1 TFLOPs training 790 GFLOPs (79.0 %), checks 10 GFLOPs (1.0 %), branches 200 GFLOPs" in page.text


def test_the_time_of_compiling_is_in_that_of_training_and_branches():
    total = {"train_flops": 1e9, "seconds": 100.0, "check_seconds": 10.0, "branch_seconds": 40.0}
    compute, time = spent(total | {"compile_seconds": 60.0})
    assert {name: share for name, share, _ in time.parts} == {"training": 0.5, "checks": 0.1, "branches": 0.4}
    assert [compute, time] == spent(total)


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
    for variable in set(re.findall(r"var\(--([a-z]+)", source)):
        assert len(re.findall(rf"--{variable}: #[0-9a-f]{{6}}", source)) == 2  # once in light, once in dark


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
    assert "it is still going on, or it broke off" in page.text
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
    assert "1 grew 1 axis, inserted 1 block, +" in page.text


def test_removals_are_told_by_what_they_cost(make):
    records = list(story())
    events = of_kind(records, "event")
    events[0]["growths"] = [REMOVAL, REMOVAL | {"where": "block0.conv1"}]
    _, page, _ = make(records)
    assert "shrank conv1 24 → 20 -0.00031 ± 0.00022 3e-03 -1,152" in page.text
    assert "2 removals cost 6.2e-04 nats and gave back 2,304 parameters." in page.text
    assert "2 growths promised" in page.text
    assert "2 growths 1 removal" in page.text


def test_growths_that_nobody_judged_are_shown_without_promise(make):
    records = list(story())
    for event in of_kind(records, "event"):
        event["growths"] = [UNSEEN]
    _, page, _ = make(records)
    assert "grew conv1 20 → 24 not judged 1e-07 +1,152" in page.text
    assert "No growth yet whose gain was measured." in page.text
    assert "no growth was judged" in page.text
    assert "None" not in page.text


def test_the_settings_name_the_limits_and_the_policy_with_its_options(make):
    records = list(story())
    records[0] |= {"max_params": None, "max_flops": 200_000, "max_latency": 0.002, "policy": "senn"}
    config = {"command": "outgrow grow digits", "policy": {"name": "senn", "options": {"tau": 2.0, "prune": False}}}
    for told, shown in ((config, "senn: tau 2.0, prune no"), ({}, "senn")):
        _, page, _ = make(records, config=told)
        assert f"limits 200 kFLOPs an example, 2 ms an example policy {shown} length" in page.text


def test_a_run_that_shrank_again_says_so(make):
    records = list(story())
    largest = max(size["params"] for size in of_kind(records, "size"))
    of_kind(records, "event")[-1]["params_after"] = 1234
    _, page, _ = make(records)
    assert f"Starting as convnet, it grew from 1,380 to {largest:,} parameters and shrank to 1,234; its" in page.text


def test_the_report_of_a_long_run_stays_small(make):
    _, _, source = make(list(story(epochs=100, every=4)), config={"command": "outgrow grow digits"})
    assert len(source.encode()) < 400_000


def test_a_report_that_cant_be_written_leaves_nothing_behind(make):
    run, _, _ = make(list(story()))
    (run / "report.html").unlink()
    (run / "report.html").mkdir()
    with pytest.raises(InputError, match="can't be written"):
        write_report(run)
    assert not list(run.glob("*.part"))


def test_a_folder_whose_name_is_no_text_gets_a_report_too(tmp_path):
    run = tmp_path / os.fsdecode(b"run\xff")
    run.mkdir()
    (run / "journal.jsonl").write_text("".join(json.dumps(record) + "\n" for record in story()))
    assert r"run\udcff" in write_report(run).read_text(encoding="utf-8")


def test_a_disk_that_can_only_be_read_is_told(make, monkeypatch):
    run, _, _ = make(list(story()))

    def refuse(*arguments, **options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    for operation in ("write_text", "unlink"):
        monkeypatch.setattr(Path, operation, refuse)
    with pytest.raises(InputError, match=r"report.html: can't be written \(Read-only file system\)"):
        write_report(run)
