"""The papers' experiments: the score over the plane, what tables say of made-up lines, and short runs."""

import io
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))  # behind this folder: both have a zoo.py

import drawing
import reproduce
import runs as benchmark_runs
from seeds import EXPERIMENTS, cifar, growing, moons, networks, regression, transfer, width
from tasks import Task

from outgrow.grow import additions
from outgrow.grow.sample import Batch
from outgrow.grow.score import increase
from outgrow.grow.step import objective_of
from outgrow.net.places import places

AT = growing.At(".")
MADE = {"torch": "2", "commit": "c", "hardware": "h", "device": "cpu", "workers": 1, "setup": []}
SPENT = {"train_flops": 4 * 10**12, "seconds": 3600.0, "joules": {"value": 1000.0, "how": "modelled"}}


def size(accuracy, **more):
    return {"test": {"accuracy": accuracy, "loss": 0.5}, **SPENT, **more}


# the plane


@pytest.fixture(scope="module")
def regressed():
    """A short run, with a look every 50 steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(regression, "LOOKS", 3)
        return json.loads(json.dumps(regression.run(regression.Job(0), AT)))


def test_the_score_over_the_plane_is_that_of_each_unit_by_itself(regressed):
    x, y = regression.points(0)
    net = regression.of_frame(regressed["frames"][-1])
    found, present, ceiling = regression.landscape(net, x, y)
    features = torch.cat([net[1](net[0](x)), torch.ones_like(x)], 1).detach().double()
    slope = 2 * (net(x) - y).detach().double()
    c, p = torch.arange(features.shape[1]), torch.tensor([features.shape[1]])
    for i, j in ((0, 0), (20, 60), (60, 120), (33, 87)):
        unit = networks.Bump()((x.double() - regression.PLACES[j]) / regression.SCALES[i])
        both = torch.cat([features, unit], 1)
        A, G = both.mT @ both / len(x), slope.mT @ both / len(x)
        expected = increase(A, regression.CURVATURE, G, c, p).score
        assert float(found[i, j]) == pytest.approx(expected, rel=1e-2, abs=1e-9)
    told = additions.ceiling(net, [Batch(x, y, len(x))], objective_of(nn.functional.mse_loss, None))
    assert ceiling == pytest.approx(told, rel=1e-4)
    assert 0 <= float(found.max()) <= ceiling / 2  # squares have the Hessian 2
    assert 0 <= present <= ceiling / 2


def test_a_copy_of_a_neuron_adds_nothing(monkeypatch):
    net = regression.network()
    monkeypatch.setattr(regression, "PLACES", torch.zeros(1).double())
    monkeypatch.setattr(regression, "SCALES", torch.ones(1).double())
    found, _, ceiling = regression.landscape(net, *regression.points(0))
    assert abs(float(found)) < 1e-6 * ceiling


def test_the_regression_grows_and_its_film_has_every_frame_up_to_the_last_addition(regressed):
    assert regressed["units"] == 1 + len(regressed["additions"]) > 1
    assert regression.additions_at_once(regressed) <= regressed["bound"]
    moments = [seen["moment"] for seen in regressed["frames"]]
    assert moments.count("before") >= moments.count("after") > 0
    shown = len(moments) - moments[::-1].index("after") + regression.AFTER
    with Image.open(io.BytesIO(regression.film(regressed))) as film:
        assert film.n_frames == min(shown, len(moments))
    drawn = drawing.svg(regression.planes(regressed))
    assert drawn == drawing.svg(regression.planes(regressed))
    assert drawn.count("step ") == len(regression.pairs(regressed))


# what tables say


def test_no_runs_are_no_tables():
    assert {experiment.tables([]) for experiment in EXPERIMENTS.values()} == {"No runs yet."}
    assert not any(experiment.figures([]) for experiment in EXPERIMENTS.values())


def test_parameters_needed_are_the_fewest_of_any_epoch_that_was_good_enough():
    curve = [[1, 5_000, 0.65], [2, 8_000, 0.71], [3, 7_000, 0.70], [4, 9_000, 0.74]]
    run = {"row": "secnn,share=1", "epochs": 4, "seed": 0, "sizes_wanted": [], "precision": "fp32"}
    run |= {"curve": curve, **MADE}
    run["growths"] = {"widen": 3}
    run["sizes"] = [size(0.75, params=9_000)]
    assert cifar.needed([run], 70) == "7,000"
    assert cifar.needed([run, {**run, "curve": curve[:2]}], 70) == "7,500"
    assert cifar.needed([run], 80) == "-"
    before = {**run, "curve": curve[:2]}  # the same run by an older commit
    (told,) = [line for line in cifar.tables([before, run]).splitlines() if line.startswith("| SECNN's")]
    assert told.split(" | ")[3:10] == ["7,000", "-", "74.00", "9,000", "74.00", "75.00", "9,000"]


def test_a_family_stands_beside_its_sweep_and_what_was_to_be_reached():
    sizes = [size(0.6, params=4_990, finished=True), size(0.7, params=14_800)]
    each = {"family": [*sizes[:1], size(0.8, params=5_100), *sizes[1:]], "alone": sizes}  # one is as the run left it
    runs = [
        {"row": row, "epochs": 2, "seed": 0, "sizes_wanted": [5_000, 15_000], "precision": "fp32", "sizes": found}
        | {"total": SPENT, **MADE}
        for row, found in each.items()
    ]
    told = cifar.tables(runs)
    assert "| to be reached | - | - | 70 | 80 | - | - | - | - | - |" in told
    assert told.count("| 60.00 | 70.00 | 14,800 | - | 4 | 1.00 | 1.0 |") == 2
    other = [{**run, "sizes_wanted": [5_000], "workers": 5} for run in runs]  # of another command
    told = cifar.tables([*runs, *other])
    assert told.count("| 60.00 | 70.00 | 14,800 | - | 4 | 1.00 | 1.0 |") == 2
    assert told.count("| 60.00 | 14,800 | - | 4 | - | - |") == 2
    assert drawing.svg(cifar.fronts(runs)) == drawing.svg(cifar.fronts(runs))
    halved = [{**run, "precision": "bf16", "sizes": sizes[:1]} for run in runs]
    told = cifar.tables([*runs, *halved])
    assert told.count("| 2 in bf16 | 1 | 60.00 |") == told.count("| 2 | 1 | 60.00 |") == 2
    every = [{**runs[0], "row": row, "epochs": epochs} for row in cifar.ROWS for epochs in (2, 4, 6, 8, 10, 12)]
    drawn = cifar.fronts(every).axes[0].lines
    looks = {(line.get_color(), str(line._dash_pattern), line.get_marker()) for line in drawn}
    assert len(looks) == len(every) + 1


def test_widths_are_compared_where_all_runs_have_them():
    known = {"examples": width.WHOLE[width.MNIST], "classes": 10, **MADE}
    sizes = [size(0.96 + 0.005 * at, units=units) for at, units in enumerate(width.UNITS)]
    runs = [{**known, "row": row, "seed": seed, "sizes": sizes} for row in ("family", "alone") for seed in range(2)]
    free = [[size(0.96, units=10), size(0.98, units=units)] for units in (20, 30)]
    runs += [{**known, "row": "outgrow", "seed": seed, "sizes": one} for seed, one in enumerate(free)]
    free, family, _ = [line.split(" | ") for line in width.accuracy_table(runs).splitlines()[2:]]
    assert free[2:] == [*["-"] * 8, "20 (20 to 30)", "98.00 +- 0.00 |"]
    assert family[2:5] == ["96.00 +- 0.00", "96.50 +- 0.00", "97.00 +- 0.00"]
    assert family[9:] == ["40", "-", "- |"]
    told = width.energy_sentence([{**run, "total": SPENT} if run["row"] == "family" else run for run in runs])
    assert "14 +- 0 % of its FLOPs" in told  # a seventh: each width of a sweep has an account of its own
    assert "14 +- 0 % of its joules (modelled; n = 2)" in told


def test_the_width_is_set_against_what_there_is_to_learn():
    runs = [
        {"row": "outgrow", "examples": examples, "classes": 10, "seed": 0, "sizes": [size(0.9, units=units)], **MADE}
        for examples, units in zip(width.EXAMPLES, (10, 12, 15, 30, 60), strict=True)
    ]
    told = width.tables(runs)
    assert "| 600 | 1, 10, 90.00 | - |" in told
    assert "Rank correlation of examples and width: free, the default policy 1.00 (n = 5" in told
    assert drawing.svg(width.drawn_widths(runs))


def test_moons_count_layers():
    known = {"row": moons.ROWS[0], "params": 30, "at_once": 1, "accuracy": 0.9, "train_accuracy": 0.95, "maps": []}
    runs = [{**known, "layers": layers, "seed": seed, **MADE} for seed, layers in enumerate(([4], [3, 3], [5]))]
    assert "| 3 | 1: 2, 2: 1 | 30 | 1 | 90.0 +- 0.0 |" in moons.tables(runs)


# short runs


def test_moons_start_as_a_linear_map_and_keep_maps(monkeypatch):
    net = moons.network()
    x, _ = moons.points(0)
    middle = (net(x[:1]) + net(x[1:2])) / 2
    assert torch.allclose(net((x[:1] + x[1:2]) / 2), middle, atol=1e-6)
    assert [place.name for place in places(net, x[:2])] == ["1"]
    monkeypatch.setattr(moons, "STEPS", 60)
    line = moons.run(moons.Job(moons.ROWS[0], 0), AT)
    assert line["growths"] > 0
    assert all(len(one["map"]) == moons.GRID**2 for one in line["maps"])
    assert drawing.svg(moons.boundaries([line])).count("step ") == len(line["maps"])


def test_secnns_network_takes_channels_and_layers():
    net = networks.secnn((3, 32, 32), 10)
    assert sum(parameter.numel() for parameter in net.parameters()) == 5_306
    found = places(net, torch.randn(2, 3, 32, 32))
    assert [place.name for place in found if place.growable] == ["0.2", "2.2", "4.2"]


def test_a_run_in_another_precision_is_another_run():
    full, half = (cifar.jobs([0], ["family"], epochs=1, precision=precision) for precision in ("fp32", "bf16"))
    assert not benchmark_runs.done(full[0], [half[0].key()])
    assert benchmark_runs.done(full[0], [full[0].key()])


@pytest.mark.parametrize("row", ["outgrow,depth=true", *cifar.FAMILIES, "alone"])
def test_runs_on_images_make_lines_that_tables_take(monkeypatch, row):
    monkeypatch.setattr(cifar, "CIFAR", "digits")
    monkeypatch.setattr(cifar, "SECNN_SIZE", 8_000)
    monkeypatch.setattr(cifar, "LARGE_SIZES", (5_000,))
    (job,) = cifar.jobs([0], [row], epochs=1, largest=5_000)
    line = json.loads(json.dumps(cifar.run(job, AT)))
    assert job.key().items() <= line.items()
    assert all(0 < size["test"]["accuracy"] < 1 for size in line["sizes"])
    assert cifar.ROWS[row] in cifar.tables([line])
    assert "%" in cifar.told(line)


def test_transfer_starts_from_what_was_learned(monkeypatch):
    source = Task("digits", "convnet", 1, 32, widths=(4, 4, 8, 8), examples=300)
    monkeypatch.setattr(transfer, "SOURCE", source)
    monkeypatch.setattr(transfer, "TARGET", replace(source, max_params=2_000, examples=200))
    line = transfer.run(transfer.Job(0), AT)
    assert line["growing"]["params"] > line["fixed"]["params"] == line["fixed-flops"]["params"]
    epoch = line["fixed"]["train_flops"]
    assert abs(line["fixed-flops"]["train_flops"] - line["growing"]["train_flops"]) < 0.6 * epoch
    assert "pre-trained, growing" in transfer.tables([line])


def test_only_some_digits_are_left():
    data = Task("digits", "mlp", 1, 32).load_whole(".")
    some = width.some_classes(data, 4)
    assert (some.outputs, set(some.test.y.tolist())) == (4, {0, 1, 2, 3})
    assert len(some.train) < len(data.train)


# the command


def test_a_run_that_fails_leaves_no_line_and_one_that_does_not_says_what_repeats_it(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "argv", ["reproduce.py", "moons", "--rows", "a", "b", "--results", str(tmp_path)])
    kept, failed = moons.Job("a", 0), moons.Job("b", 0)
    line = {"layers": [2], "params": 9, "accuracy": 0.5}
    lines = [(kept, {**kept.key(), **line}), (failed, {**failed.key(), "failed": "why"})]
    monkeypatch.setattr(reproduce, "results", lambda todo, run, workers, threads: lines)
    reproduce.main()
    assert "moons, b, seed 0: why" in capsys.readouterr().out
    (told,) = (tmp_path / "seeds_moons.jsonl").read_text().splitlines()
    command = "python benchmarks/reproduce.py moons --data DIR --seeds 0 --device cpu --rows a b"
    assert json.loads(told) == {**lines[0][1], "command": command}


def test_what_is_there_is_not_done_again_and_unknown_options_are_refused(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "argv", ["reproduce.py", "regression", "--results", str(tmp_path)])
    (tmp_path / "seeds_regression.jsonl").write_text(json.dumps(regression.Job(0).key()) + "\n")
    reproduce.main()
    assert capsys.readouterr().out == "0 runs to do\n"
    monkeypatch.setattr(sys, "argv", ["reproduce.py", "regression", "--epochs", "3"])
    with pytest.raises(SystemExit, match="regression has no --epochs"):
        reproduce.main()
    monkeypatch.setattr(sys, "argv", ["reproduce.py", "moons", "--device", "cuda"])
    with pytest.raises(SystemExit, match="moons runs on the CPU"):
        reproduce.main()
