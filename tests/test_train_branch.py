"""Branches: sizes are finished on the way back, never for the worse, as often as one likes, within a budget."""

import contextlib
import json
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import outgrow
from outgrow.errors import GrowthError, InputError
from outgrow.grow.budget import Budget
from outgrow.grow.policies.schedule import Schedule
from outgrow.grow.reduction import EXAMPLES, Reduction
from outgrow.net.cost import flops
from outgrow.registry import policy_of
from outgrow.train.average import settling_examples
from outgrow.train.branch import CUT, Branches, base_of
from outgrow.train.distilled import Distilled
from outgrow.train.evaluate import evaluate, loss_of, worth
from outgrow.train.finish import APART, Finishing, spaced, wanted
from outgrow.train.folder import RunFolder
from outgrow.train.loaders import Loaders
from outgrow.train.recipe import Recipe
from outgrow.train.trainer import Trainer
from test_train_run import CASES, dataset

RECIPE = Recipe(epochs=6, batch_size=64, events=3)


@pytest.fixture(scope="module", params=["images", "waves"])
def grown(request, tmp_path_factory):
    """A finished run with several sizes, none of which has a branch."""
    case = request.param
    path = tmp_path_factory.mktemp(case)
    folder = RunFolder(path)
    folder.claim(overwrite=False)
    data, network = dataset(case), CASES[case][2]
    Trainer(data, network, RECIPE, folder, policy=lambda run: Schedule(events=3, share=0.5)).run()
    folder.write_json("config.json", {"format": 1, "seed_network": network.to_json()})
    return data, network, path


def branches(grown, tmp_path, name="run", limit=None, **finish):
    data, network, path = grown
    out = tmp_path / name
    if not out.exists():
        shutil.copytree(path, out)
    return Branches(data, network, RECIPE, RunFolder(out), Finishing(**finish), limit=limit), out


def journal(out):
    """What it says, but for how long it took."""
    records = [json.loads(line) for line in (out / "journal.jsonl").read_text().splitlines()]
    return [{key: value for key, value in one.items() if key not in {"seconds", "joules"}} for one in records]


def read(out):
    return json.loads((out / "family.json").read_text())


def test_sizes_get_no_worse_and_load_as_they_are_told(grown, tmp_path):
    data = grown[0]
    run, out = branches(grown, tmp_path)
    before = {entry["name"]: dict(entry) for entry in run.sizes}
    names = list(before)
    after = run.run(names)["sizes"]
    assert read(out)["sizes"] == after
    assert ["finished" in entry for entry in after] == [
        *[True] * (len(names) - 1),
        False,
    ]  # the end is done
    family = outgrow.Family(out)
    for entry in after:
        first, last = before[entry["name"]], entry
        assert worth(data.task, last["validation"]) >= worth(data.task, first["validation"])
        loader = Loaders(data, RECIPE, 0, "cpu").in_order(data.validation)
        told = evaluate(family[entry["name"]].load(), loader, loss_of(data), data.task)
        assert told == pytest.approx(last["validation"], rel=1e-5)
        assert (out / last["file"]).exists()
    assert any(entry.get("quality") == "branch" for entry in after)
    assert len(list((out / "sizes").iterdir())) == len(names)


def test_sizes_of_a_run_that_inserted_blocks_are_finished_with_the_blocks_that_they_had(tmp_path):
    folder, data, network = RunFolder(tmp_path / "run"), dataset("residual"), CASES["residual"][2]
    folder.claim(overwrite=False)
    folder.write_json("config.json", {"format": 1, "seed_network": network.to_json()})
    recipe = Recipe(3, 32, share=0.6)
    Trainer(data, network, recipe, folder, policy=policy_of("random", {"depth": "1"}), seed=1).run()
    run = Branches(data, network, recipe, folder, Finishing())
    before = {entry["name"]: dict(entry) for entry in run.sizes}
    run.run(list(before))
    loader = Loaders(data, recipe, 0, "cpu").in_order(data.validation)
    family = outgrow.Family(folder.path)
    assert len({len(size.blocks) for size in family}) > 1
    for size in family:
        was = before[size.name]
        assert [size.params, list(size.blocks), size.axes] == [was["params"], was["blocks"], was["axes"]]
        told = evaluate(size.load(), loader, loss_of(data), data.task)
        assert told == pytest.approx(size.validation, rel=1e-5)
        assert worth(data.task, told) >= worth(data.task, was["validation"]) - 1e-6
    named = {entry["name"]: entry for entry in read(folder.path)["sizes"]}
    starts = {name: entry.get("start") for name, entry in named.items()}
    assert any(start and named[start]["blocks"] == named[name]["blocks"] for name, start in starts.items()), starts


def test_all_that_branches_take_is_counted(grown, tmp_path):
    data, network, _ = grown
    run, out = branches(grown, tmp_path, length=0.5, distil=0.0)
    before = read(out)["total"]
    first = run.sizes[0]
    after = run.run([first["name"]])["total"]
    batches = Loaders(data, RECIPE, 0, "cpu")
    longer = (run.sizes[-1]["flops"] / first["flops"]) ** 0.5
    steps = round(min(0.5 * longer, 1) * RECIPE.epochs * len(batches.train))
    settled = settling_examples(network.build(), batches.full)
    assert first["flops"] == flops(network.build(), network.example())
    training = 3 * first["flops"] * steps * batches.train.batch_size
    took = training + first["flops"] * settled + cutting(out, network, training, len(data.train))
    assert after["branch_flops"] == after["train_flops"] - before["train_flops"] == took
    assert after["seconds"] == pytest.approx(before["seconds"] + after["branch_seconds"])
    taught, out = branches(grown, tmp_path, "taught", length=0.5, distil=0.5)
    if worth(data.task, taught.sizes[-1]["validation"]) > worth(data.task, taught.sizes[0]["validation"]):
        answers = taught.sizes[-1]["flops"] * len(data.train)
        assert taught.run([first["name"]])["total"]["branch_flops"] == took + answers


def test_the_smaller_a_size_the_higher_the_rate_of_its_branch(grown, tmp_path, monkeypatch):
    """Up to four times that of the run, after a warm-up, and zero in the end."""
    seen, make = [], Recipe.optimizer

    def watched(recipe, model):
        rates, optimizer = [], make(recipe, model)
        optimizer.register_step_post_hook(lambda *_: rates.append(optimizer.param_groups[0]["lr"]))
        seen.append(rates)
        return optimizer

    monkeypatch.setattr(Recipe, "optimizer", watched)
    run, _ = branches(grown, tmp_path, length=0.5)
    ends = run.sizes[-1]["flops"]
    run.run([entry["name"] for entry in run.sizes[:-1]])
    assert len(seen) == len(run.sizes) - 1
    for entry, rates in zip(reversed(run.sizes[:-1]), seen, strict=True):
        further = min(max((ends / entry["flops"]) ** 0.5, 1), 4)
        assert max(rates) == pytest.approx(further * RECIPE.rate, rel=0.15)  # the peak lies between steps
        assert rates[0] < max(rates) > rates[-1] < 0.05 * max(rates)
    peaks = [max(rates) for rates in seen]
    assert peaks == sorted(peaks)


def cutting(out, network, training, examples):
    """What it takes to cut the smallest size out of the largest."""
    first, last = (read(out)["sizes"][at] for at in (0, -1))
    net = outgrow.Family(out)[last["name"]].load()
    effort = Reduction(net, first["axes"], network.example()).effort(CUT * training, examples)
    assert effort.flops <= CUT * training or effort.examples == min(EXAMPLES[0], examples)
    return effort.flops


class StoppedError(Exception):
    """The user's doing."""


@pytest.mark.parametrize("limited", [False, True])
def test_stopped_and_run_again_is_the_same_as_at_once(grown, tmp_path, limited):
    data, network, _ = grown
    once, out = branches(grown, tmp_path, "once")
    names = [entry["name"] for entry in once.sizes]
    limit = 1.3 * read(out)["total"]["train_flops"] if limited else None
    Branches(data, network, RECIPE, RunFolder(out), limit=limit).run(names)
    _, twice = branches(grown, tmp_path, "twice")
    begun = []

    def stop(record):
        begun.extend([record] * (record["record"] == "branch"))
        if len(begun) == 2:
            raise StoppedError

    with pytest.raises(StoppedError):
        Branches(data, network, RECIPE, RunFolder(twice), limit=limit, on_record=stop).run(names)
    Branches(data, network, RECIPE, RunFolder(twice), limit=limit).run(names)
    cost = {"seconds", "joules"}
    told = [[{k: v for k, v in entry.items() if k not in cost} for entry in read(one)["sizes"]] for one in (out, twice)]
    assert told[0] == told[1]
    assert any("quality" in entry for entry in told[0])
    for file in (out / "sizes").iterdir():
        assert (twice / "sizes" / file.name).read_bytes() == file.read_bytes()
    assert journal(out) == journal(twice)


@pytest.mark.parametrize("before", [None, 0.04])
@pytest.mark.parametrize("where", ["unlink", "append"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_killed_between_two_writes_it_takes_up_what_is_missing(grown, tmp_path, monkeypatch, where, count, before):
    """Also where a longer branch takes the place of one of length `before`."""
    once, out = branches(grown, tmp_path, "once", length=before or 0.08)
    names = [once.sizes[0]["name"]]
    if before:
        once.run(names)
    shutil.copytree(out, tmp_path / "twice")
    branches(grown, tmp_path, "once")[0].run(names, between=True)
    run, twice = branches(grown, tmp_path, "twice")
    place = Path if where == "unlink" else RunFolder
    usual, calls = getattr(place, where), []

    def killed(*given, **known):
        calls.append(given)
        if len(calls) == count:
            raise StoppedError
        return usual(*given, **known)

    with monkeypatch.context() as patch:
        patch.setattr(place, where, killed)
        with contextlib.suppress(StoppedError):  # where there are fewer such writes
            run.run(names, between=True)
    branches(grown, tmp_path, "twice")[0].run(names, between=True)
    assert journal(out) == journal(twice)
    assert {file.name for file in (out / "sizes").iterdir()} == {file.name for file in (twice / "sizes").iterdir()}


def test_branches_keep_within_what_the_run_may_take(grown, tmp_path):
    names = [entry["name"] for entry in branches(grown, tmp_path, "free")[0].sizes]
    free = branches(grown, tmp_path, "free", length=1)[0].run(names)["total"]
    spent = free["train_flops"] - free["branch_flops"]
    for share in (0.7, 0.3, 0.05):
        limit = spent + share * free["branch_flops"]
        run, _ = branches(grown, tmp_path, f"within {share}", limit, length=1)
        total = run.run(names, between=True)["total"]
        assert spent <= total["train_flops"] <= limit
        assert share < 0.3 or all("finished" in entry for entry in run.sizes[:-1])
    none, _ = branches(grown, tmp_path, "none", limit=spent)
    assert "branch_flops" not in none.run(names, between=True)["total"]


def test_what_can_not_be_cut_is_trained_on_from_its_own_weights(grown, tmp_path, monkeypatch):
    def refused(*given):
        raise GrowthError("no")

    monkeypatch.setattr(Reduction, "apply_", refused)
    run, _ = branches(grown, tmp_path)
    begun = []
    run._on_record = lambda record: begun.extend([record] * (record["record"] == "branch"))
    sizes = run.run([run.sizes[0]["name"]], between=True)["sizes"]
    assert [one["start"] for one in begun] == [sizes[0]["name"]]
    assert not any(entry.get("quality") == "cut" for entry in sizes)


def test_what_is_damaged_or_not_there_is_named(grown, tmp_path):
    run, out = branches(grown, tmp_path)
    with pytest.raises(InputError, match="has no size '9-9'"):
        run.run(["9-9"])
    last = run.sizes[-1]["file"]
    (out / last).write_bytes((out / last).read_bytes()[:-8])
    with pytest.raises(InputError, match=f"{last} is not what was saved"):
        run.run([run.sizes[0]["name"]])


def test_sizes_between_are_cut_out_where_that_is_better_and_may_be_finished_later(grown, tmp_path):
    data = grown[0]
    run, out = branches(grown, tmp_path)
    before = [dict(entry) for entry in run.sizes]
    after = run.run([before[0]["name"]], between=True)["sizes"]
    assert [entry["name"] for entry in after if "finished" in entry] == [before[0]["name"]]
    for old, new in zip(before[1:-1], after[1:-1], strict=True):
        assert worth(data.task, new["validation"]) >= worth(data.task, old["validation"])
        assert (new["quality"] == "cut") == (new["sha256"] != old["sha256"])
        assert new["file"].endswith("-cut.safetensors") == (new["quality"] == "cut")
    assert after[-1]["sha256"] == before[-1]["sha256"]
    again = branches(grown, tmp_path)[0].run([], between=True)
    assert json.loads(json.dumps(again["sizes"])) == after  # nothing is left to do
    last = branches(grown, tmp_path)[0].run([after[-2]["name"]])["sizes"][-2]
    assert last["finished"]
    for size in outgrow.Family(out):
        assert sum(p.numel() for p in size.load().parameters()) == size.params


def test_each_size_is_cut_out_of_the_next_larger_one_that_is_finished(grown, tmp_path):
    run, _ = branches(grown, tmp_path)
    begun = {}
    run._on_record = lambda record: begun.update({record["of"]: record} if record["record"] == "branch" else {})
    names = [entry["name"] for entry in run.sizes]
    finished = {entry["name"]: entry for entry in run.run(names)["sizes"]}
    assert [one["number"] for one in begun.values()] == list(range(1, len(names)))
    for at, (name, one) in enumerate(reversed(begun.items()), 1):
        assert name == names[at - 1]
        larger = next(n for n in names[at:] if n == names[-1] or finished[n]["quality"] == "branch")
        assert one["start"] == larger


def test_a_longer_branch_takes_the_place_of_a_shorter_one_where_it_is_better(grown, tmp_path):
    data = grown[0]
    run, out = branches(grown, tmp_path, length=0.02)
    left = run.sizes[0]["epoch"]
    name = run.sizes[0]["name"]
    short = dict(run.run([name])["sizes"][0])
    spent = run.run([name])["total"]
    for length in (0.01, 0.02):  # nothing is left to do
        assert branches(grown, tmp_path, length=length)[0].run([name])["total"] == spent
    within, _ = branches(grown, tmp_path, limit=10 * spent["train_flops"], length=0.3)
    assert not within.is_due(within.sizes[0])
    again, _ = branches(grown, tmp_path, length=0.3)
    total = again.run([name])["total"]
    long, per_epoch = again.sizes[0], len(Loaders(data, RECIPE, 0, "cpu").train)
    assert long["branch_steps"] > 10 * short["branch_steps"] >= 10
    assert total["branch_flops"] > spent["branch_flops"]
    assert worth(data.task, long["validation"]) >= worth(data.task, short["validation"])
    assert long["sha256"] != short["sha256"]
    assert long["epoch"] == pytest.approx(left + long["branch_steps"] / per_epoch)
    assert (out / long["file"]).exists()
    assert not (out / short["file"]).exists()
    older, _ = branches(grown, tmp_path, length=0.08)
    del older.sizes[0]["branch_steps"]  # as family.json was before: branches had the usual length
    assert not older.is_due(older.sizes[0])


UNITS = st.integers(1, 9)


@given(st.lists(st.tuples(UNITS, UNITS, st.sampled_from(["", "branch", "cut", "average"])), min_size=1))
def test_a_branch_starts_from_what_contains_its_size_or_from_itself(found):
    sizes = [
        {"params": a + b, "axes": {"a": a, "b": b}, "blocks": [], **({"quality": how} if how else {})}
        for a, b, how in found
    ]
    for entry in sizes:
        base = base_of(entry, sizes)
        assert base is entry or base is sizes[-1] or base["quality"] == "branch"
        assert all(base["axes"][axis] >= entry["axes"][axis] for axis in "ab")
    deeper = {"params": 99, "axes": {"a": 9, "b": 9}, "blocks": ["x"]}
    assert all(base_of(entry, [entry, deeper]) is entry for entry in sizes)


def test_a_branch_that_diverges_leaves_the_size_and_is_counted(grown, tmp_path, monkeypatch):
    run, out = branches(grown, tmp_path)
    first, second = (dict(entry) for entry in run.sizes[:2])
    loss = run._loss
    monkeypatch.setattr(run, "_loss", lambda z, y: loss(z, y) * float("nan"))
    total = run.run([first["name"]])["total"]
    assert total["branch_flops"] > 0
    entry = read(out)["sizes"][0]
    assert entry.pop("branch_steps") > 0
    assert entry == first | {"quality": "average", "finished": True}
    monkeypatch.setattr(run, "_loss", loss)
    run.run([second["name"]])
    assert "finished" in read(out)["sizes"][1]


def test_a_run_stops_at_the_sizes_that_are_wanted(tmp_path):
    data, network = dataset("images"), CASES["images"][2]
    sizes = [400, 1_000, 3_000]
    folder = RunFolder(tmp_path)
    folder.claim(overwrite=False)
    run = Trainer(data, network, RECIPE, folder, sizes=sizes).run()
    for most in sizes:
        below = max(entry["params"] for entry in run["sizes"] if entry["params"] <= most)
        assert below >= 0.9 * most
    assert max(entry["params"] for entry in run["sizes"]) <= sizes[-1]
    for bad, budget, told in (([9], None, "the seed's"), ([500], Budget(max_params=400), "within the budget")):
        with pytest.raises(InputError, match=told):
            Trainer(data, network, RECIPE, folder, sizes=bad, budget=budget)


@pytest.mark.parametrize("bad", [{"length": 0}, {"length": float("nan")}, {"distil": 1.5}])
def test_finishes_that_make_no_sense_are_refused(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        Finishing(**bad)


PARAMS = st.lists(st.integers(1, 10**6), min_size=1, max_size=12, unique=True).map(sorted)


def entries(params):
    return [{"name": str(count), "params": count} for count in params]


@given(params=PARAMS)
def test_sizes_that_get_a_branch_are_well_apart_and_near_all_others(params):
    chosen = [int(name) for name in spaced(entries(params))]
    smaller = params[:-1]
    assert chosen[:1] == smaller[:1]
    assert all(APART * low <= high for low, high in pairwise(chosen))
    assert all(any(size <= count < APART * size for size in chosen) for count in smaller)


def test_what_is_larger_than_the_network_that_a_run_ended_with_gets_no_branch():
    pruned = entries([100, 500, 900, 400])
    assert spaced(pruned) == ["100"]


@given(params=PARAMS, asked=st.lists(st.integers(1, 10**6), min_size=1, max_size=4))
def test_wanted_sizes_are_the_largest_that_fit(params, asked):
    if min(asked) < params[0]:
        with pytest.raises(InputError, match=f"the smallest, {params[0]}, has {params[0]:,}"):
            wanted(entries(params), asked)
    else:
        best = {max(count for count in params if count <= most) for most in asked}
        assert wanted(entries(params), asked) == [str(count) for count in sorted(best)]


@pytest.mark.parametrize("case", ["images", "waves"])
def test_distillation_lies_between_targets_and_answers(case):
    data = dataset(case)
    loss, n = loss_of(data), len(data.train)
    generator = torch.Generator().manual_seed(0)
    outputs = 4 if case == "images" else 1
    answers, z = (torch.randn(n, outputs, generator=generator) for _ in range(2))
    index = torch.arange(0, n, 3)
    told = [float(Distilled(loss, data.train.y, answers, w)(z[index], index)) for w in (0.0, 0.25, 1.0)]
    assert told[0] == pytest.approx(float(loss(z[index], data.train.y[index])))
    assert told[1] == pytest.approx(0.75 * told[0] + 0.25 * told[2], rel=1e-5)
    copied = answers[index].requires_grad_()
    at_best = Distilled(loss, data.train.y, answers, 1.0)(copied, index)
    at_best.backward()
    assert at_best.item() == pytest.approx(0, abs=1e-5)
    assert float(copied.grad.abs().max()) < 1e-5
