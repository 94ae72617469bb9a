"""Runs that were never trained, for the tests of what is shown; and the small parts that read and write records."""

import math
import random

import pytest

from outgrow.errors import InputError
from outgrow.show import quantity
from outgrow.show.limits import limits
from outgrow.show.lines import lines
from outgrow.show.pace import Pace
from outgrow.show.record import kind, of_kind, pareto, require
from outgrow.show.trajectory import trajectory


def measures(metric, quality):
    """A loss and a metric for a quality between 0 and 1."""
    if metric == "accuracy":
        return {"loss": 2.3 * (1 - quality), "accuracy": quality}
    return {"loss": (1 - quality) ** 2, "rmse": 1 - quality, "r2": 1 - (1 - quality) ** 2}


def story(epochs=12, every=3, axes=4, metric="accuracy", names="block{}.conv1", data="digits", ends=True):
    """The journal of a run that grows some axis and saves a size every few epochs (never, if `every` is 0)."""
    chance, widths = random.Random(0), {names.format(i): 8 for i in range(axes)}
    first, seconds, event = dict(widths), 0.0, 0

    def params():
        return 100 + sum(40 * size for size in widths.values())

    task = "classification" if metric == "accuracy" else "regression"
    versions = {"outgrow": "0.1.0", "torch": "2.13.0", "python": "3.11.7"}
    start = {
        "record": "start",
        "data": data,
        "task": task,
        "metric": metric,
        "model": "convnet",
        "params": params(),
        "flops": 12_000,
    }
    start |= {
        "axes": first,
        "epochs": epochs,
        "steps": 20 * epochs,
        "max_params": 60_000,
        "seed": 0,
        "device": "cpu",
        "threads": 2,
    }
    start |= {"versions": versions, "train_examples": 1437, "validation_examples": 160, "test_examples": 200}
    yield start | {"frozen": {"head.weight": "meets the output"}}
    for epoch in range(1, epochs + 1):
        seconds += 1 + params() / 5000
        quality = 1 - 0.5 * math.exp(-epoch / 8) - 20 / params()
        measured, cost = measures(metric, quality), 10**7 * params() * epoch
        yield {
            "record": "epoch",
            "epoch": epoch,
            "step": 20 * epoch,
            "train_loss": measured["loss"] * 0.9,
            "rate": 0.01,
        } | {"validation": measured, "params": params(), "axes": dict(widths), "train_flops": cost, "seconds": seconds}
        if every and epoch % every == 0:
            event += 1
            before, old, where = params(), dict(widths), chance.choice(list(widths))
            units, gain = chance.choice([4, 8, 12]), 0.1 * math.exp(-epoch / 10) * chance.uniform(0.5, 1.5)
            grows = event % 4 != 0
            widths[where] += units if grows else 0
            candidate = {
                "kind": "widen",
                "where": where,
                "units": units,
                "params": 40 * units,
                "flops": 10**4,
                "gain": gain,
                "se": gain / 6,
            }
            growth = {
                "kind": "widen",
                "where": where,
                "units": units,
                "size_before": widths[where] - units,
                "size_after": widths[where],
            }
            growth |= {
                "gain": gain,
                "se": gain / 6,
                "realised": gain * chance.uniform(0.7, 1.2),
                "moved": 2.4e-7,
                "params": 40 * units,
            }
            yield {
                "event": event,
                "epoch": float(epoch),
                "step": 20 * epoch,
                "gain_now": gain,
                "params_before": before,
            } | {
                "candidates": [candidate | {"score": gain, "bound": gain / 2}],
                "growths": [growth] if grows else [],
                "params_after": params(),
                "reason": "pays" if grows else "nothing pays",
                "seconds": 0.2,
                "flops": 10**8,
            }
            yield size_record(f"{event}-{before}", before, old, metric, quality, seconds, epoch)
    yield size_record(f"{event + 1}-{params()}", params(), widths, metric, 0.97, seconds, epochs)
    if ends:
        spent = {"train_flops": 10**12, "check_seconds": 0.05 * seconds, "check_flops": 10**10}
        yield {"record": "end", "reason": "finished", "epoch": epochs, "seconds": seconds} | spent


def size_record(name, params, widths, metric, quality, seconds, epoch):
    return {
        "record": "size",
        "name": name,
        "params": params,
        "flops": 50 * params,
        "axes": dict(widths),
        "epoch": float(epoch),
    } | {
        "validation": measures(metric, quality),
        "test": measures(metric, quality - 0.01),
        "train_flops": 10**7 * params * epoch,
        "seconds": seconds,
        "joules": {"value": 20.0 * seconds, "how": "modelled"},
        "file": f"sizes/{name}.safetensors",
    }


def family(records):
    """The family.json of such a run."""
    start, end = records[0], records[-1]
    sizes = [{key: value for key, value in size.items() if key != "record"} for size in of_kind(records, "size")]
    total = {key: end[key] for key in ("train_flops", "seconds", "check_seconds", "check_flops")}
    total["joules"] = {"value": 20 * end["seconds"], "how": "modelled"}
    return {"format": 1, "task": start["task"], "metric": start["metric"], "sizes": sizes, "total": total}


def comparison(records, worse=0.02):
    """The compare.json of such a run: its sizes trained by themselves at two lengths, and with uniform widths."""
    lengths = [records[0]["epochs"] // 2, records[0]["epochs"]]

    def trained(size, epochs, loss):
        measures = {part: {name: value - loss for name, value in size[part].items()} for part in ("validation", "test")}
        spent = {"train_flops": 10**10 * epochs, "seconds": 10.0 * epochs, "joules": {"value": 9.0, "how": "modelled"}}
        return (
            {"size": size["name"], "params": size["params"], "flops": size["flops"], "epochs": epochs}
            | measures
            | spent
        )

    sizes = of_kind(records, "size")
    return {
        "format": 1,
        "lengths": lengths,
        "sweep": [trained(size, epochs, worse / epochs) for size in sizes for epochs in lengths],
        "uniform": [trained(size, lengths[1], worse) | {"widths": [8] * 4} for size in sizes],
        "chosen": lengths[1],
        "family": {"train_flops": 10**11, "seconds": 30.0, "joules": None},
        "ratio": {"train_flops": 0.25, "seconds": 0.3, "joules": None},
    }


def test_the_kinds_of_a_journal_are_told_apart():
    records = list(story())
    assert {kind(record) for record in records} == {"start", "epoch", "event", "size", "end"}
    assert kind({"record": "resumed"}) == "resumed"
    assert not kind({})


def test_a_record_that_lacks_keys_is_named_with_them():
    with pytest.raises(InputError, match=r"here, line 3: the size record lacks params, flops"):
        require({"record": "size", "name": "a", "axes": {}, "validation": {}}, "here, line 3")
    with pytest.raises(InputError, match=r"growths\.size_after"):
        require(
            {"event": 1, "epoch": 1.0, "reason": "", "growths": [{"kind": "widen", "where": "a", "params": 1}]}, "here"
        )


def test_the_front_holds_what_no_smaller_size_matches():
    sizes = of_kind(story(epochs=30, every=2), "size")
    front = pareto(sizes, "accuracy")
    for size in sizes:
        better = [other for other in front if other["params"] <= size["params"]]
        assert max(other["validation"]["accuracy"] for other in better) >= size["validation"]["accuracy"]
    values = [size["validation"]["accuracy"] for size in front]
    assert values == sorted(set(values))


def test_the_front_of_an_error_goes_down():
    values = [size["validation"]["rmse"] for size in pareto(of_kind(story(metric="rmse"), "size"), "rmse")]
    assert values == sorted(set(values), reverse=True)


def test_the_trajectory_is_what_the_epochs_say():
    records = list(story(epochs=20, every=2))
    times, axes = trajectory(records)
    assert times == sorted(times)
    for epoch in of_kind(records, "epoch"):
        first = times.index(float(epoch["epoch"]))
        assert {name: sizes[first] for name, sizes in axes.items()} == epoch["axes"]


def test_an_inserted_axis_begins_at_zero_and_stands_where_it_belongs():
    seed, deeper = (
        {"record": "start", "axes": {"a": 4, "c": 4}},
        {"record": "epoch", "epoch": 1, "axes": {"a": 4, "b": 2, "c": 4}},
    )
    times, axes = trajectory([seed, deeper, {"record": "epoch", "epoch": 2, "axes": {"b": 2, "c": 4}}])
    assert (times, list(axes.items())) == ([0.0, 1.0, 2.0], [("a", [4, 4, 0]), ("b", [0, 2, 2]), ("c", [4, 4, 4])])


def test_one_line_for_an_epoch_and_one_for_each_growth():
    records = list(story(epochs=100, every=3))
    start, epoch, event = records[0], of_kind(records, "epoch")[11], of_kind(records, "event")[0]
    assert next(lines(epoch, start, 120.0)).startswith("epoch  12/100  loss 0.")
    assert next(lines(epoch, start, 120.0)).endswith(", about 2 min left")
    assert len(list(lines(event | {"growths": event["growths"] * 3}, start))) == 3
    growth = {"kind": "widen", "where": "block1.conv1", "size_before": 8, "size_after": 12, "gain": 0.021, "se": 0.003}
    growth |= {"realised": 0.0202, "params": 1152}
    assert list(lines({"event": 3, "growths": [growth]}, start)) == [
        "event 3: grew block1.conv1 8 -> 12: gain 0.0210 +- 0.0030 nats, realised 0.0202, +1,152 parameters"
    ]
    assert list(lines({"record": "from a later version"}, start)) == []


REMOVAL = {"kind": "remove", "where": "conv1", "units": 4, "size_before": 24, "size_after": 20, "moved": 3e-3}
REMOVAL |= {"gain": -3.1e-4, "se": 2.2e-4, "realised": -3.1e-4, "params": -1152}
UNSEEN = {"kind": "widen", "where": "conv1", "units": 4, "size_before": 20, "size_after": 24, "moved": 1e-7}
UNSEEN |= {"gain": None, "se": None, "realised": None, "params": 1152}
BLOCK = {"kind": "insert", "where": "block1", "units": 1, "size_before": 0, "size_after": 1, "moved": 0.0}
BLOCK |= {"gain": 0.021, "se": 0.003, "realised": 0.02, "params": 900}


def told(growth, **start):
    (line,) = lines({"event": 3, "growths": [growth]}, start)
    return line.removeprefix("event 3: ")


def test_a_removal_is_told_by_what_it_costs():
    assert told(REMOVAL) == "shrank conv1 24 -> 20: costs 0.00031 +- 0.00022 nats, -1,152 parameters"
    assert told(REMOVAL, task="regression") == "shrank conv1 24 -> 20: costs 0.00031 +- 0.00022, -1,152 parameters"
    assert told(REMOVAL | {"gain": 0.01, "se": 0.001}).startswith("shrank conv1 24 -> 20: saves 0.0100 +- 0.0010 nats")


def test_a_growth_that_nobody_judged_promises_nothing():
    assert told(UNSEEN) == "grew conv1 20 -> 24: +1,152 parameters"
    assert told(UNSEEN | {"gain": math.nan}) == told(UNSEEN)


def test_a_block_stands_behind_its_place():
    assert told(BLOCK).startswith("inserted a block behind block1: gain 0.0210 +- 0.0030 nats, realised 0.0200")


def test_an_axis_goes_down_where_units_are_removed():
    events = [
        {"event": number, "epoch": float(number), "reason": "", "growths": [growth]}
        for number, growth in enumerate((UNSEEN, REMOVAL, BLOCK), 1)
    ]
    times, axes = trajectory([{"record": "start", "axes": {"conv1": 20, "conv2": 8}}, *events])
    assert (times, axes) == ([0.0, 1.0, 2.0, 3.0], {"conv1": [20, 24, 20, 20], "conv2": [8] * 4})


LIMITS = {
    "max_params": (60_000, "60,000 parameters"),
    "max_flops": (1_500_000, "1.5 MFLOPs an example"),
    "max_latency": (0.0005, "0.5 ms an example"),
    "max_train_flops": (2.5e12, "2.5 TFLOPs of training"),
}


@pytest.mark.parametrize("names", [(), ("max_flops",), ("max_latency", "max_params"), tuple(LIMITS)])
def test_the_start_names_every_limit(names):
    start = next(iter(story())) | {name: LIMITS[name][0] if name in names else None for name in LIMITS}
    said = [text for name, (_, text) in LIMITS.items() if name in names]
    assert limits(start) == said
    (line,) = [line for line in lines(start, start) if line.startswith("convnet: ")]
    assert line.endswith(f"; at most {', '.join(said)}" if said else "widths 8x4")


@pytest.mark.parametrize("name", [None, "outgrow", "senn", "mine:\x1b[31mGreedy"])
def test_the_start_names_the_policy_unless_it_is_the_default(name):
    start = next(iter(story())) | {"max_params": None, "policy": name}
    (line,) = [line for line in lines(start, start) if line.startswith("convnet: ")]
    assert line.partition("; policy ")[2] == ("" if name in {None, "outgrow"} else name.replace("\x1b", "?"))


@pytest.mark.parametrize("slower", [1.0, 1.05])
def test_the_pace_follows_a_run_that_gets_slower(slower):
    pace, seconds = Pace(), 0.0
    for step in range(1, 101):
        pace.note(step - 1, seconds)
        seconds += slower**step
    pace.note(100, seconds)
    assert pace.left(100) == 0.0
    assert pace.left(110) == pytest.approx(10 * slower**100, rel=0.5)
    assert pace.left(110) > 0.99 * 10 * seconds / 100


def test_the_pace_says_nothing_before_it_knows():
    pace = Pace()
    assert pace.left(10) is None
    pace.note(0, 0.0)
    assert pace.left(10) is None


def test_unknown_numbers_are_written_as_such():
    unknown = (
        quantity.loss(math.nan),
        quantity.metric("rmse", None),
        quantity.duration(None),
        quantity.short(math.inf),
    )
    assert set(unknown) == {quantity.UNKNOWN}
