"""New units on trial: function kept, statistics true, and what is applied is what was tried."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from outgrow.errors import InputError
from outgrow.grow.folds import DAMPINGS
from outgrow.grow.gain import mean_loss
from outgrow.grow.norms import settle
from outgrow.grow.objective import OutputLoss
from outgrow.grow.proposals import NAMES, propose_all
from outgrow.grow.sample import Batch
from outgrow.grow.trial import DAMPING, Trial, can_try, tried
from outgrow.models.seed import Seed
from outgrow.net.axes import axes
from outgrow.net.enlargement import widen
from outgrow.net.widening import Widening

CE = OutputLoss(F.cross_entropy)


class Concat(nn.Module):
    """Two branches, concatenated and flattened."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(1, 3, 1)
        self.norm, self.head = nn.BatchNorm2d(5), nn.Linear(5 * 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(torch.cat([self.left(x), self.right(x)], 1)).relu()
        return self.head(F.max_pool2d(x, 2).flatten(1))


def model_of(kind, dtype=torch.float32):
    torch.manual_seed(0)
    if kind == "concat":
        return Concat().to(dtype)
    widths = {"mlp": (4, 3), "convnet": (2, 3, 4, 2), "resnet": (2, 3)}[kind]
    return Seed(kind, (1, 8, 8), 3, widths).build().to(dtype)


def data(n=60, seed=1, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 1, 8, 8, generator=generator).to(dtype)
    y = (x.mean((1, 2, 3)) > 0).long() + (x[:, 0, :4].mean((1, 2)) > 0.1).long()
    return [Batch(x[: n // 3], y[: n // 3], n // 3), Batch(x[n // 3 :], y[n // 3 :], n - n // 3)]


def trial_of(kind, units=3, damping=0.1, dtype=torch.float32):
    model = model_of(kind, dtype)
    for batch in data(seed=2, dtype=dtype):  # statistics that differ from those of a fresh layer
        model(batch.inputs)
    found = axes(model, torch.zeros(1, 1, 8, 8, dtype=dtype))
    growing = [axis for axis in found if not can_try(model, axis)]
    trial = Trial(
        model,
        found,
        [Widening(axis, units) for axis in growing],
        data(dtype=dtype),
        CE,
        torch.Generator().manual_seed(0),
        damping,
    )
    return model, found, growing, trial


KINDS = ["mlp", "convnet", "resnet", "concat"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_trial_computes_what_the_model_computes_and_the_model_is_left_alone(kind):
    model = model_of(kind)
    for batch in data(seed=2):
        model(batch.inputs)
    before = copy.deepcopy(model.state_dict())
    _, _, growing, trial = trial_of(kind)
    assert growing
    x = data()[0].inputs
    assert all(module.training for module in model.modules())
    torch.testing.assert_close(trial.model(x), model.eval()(x), atol=1e-5, rtol=1e-5)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("kind", ["convnet", "resnet", "concat"])
def test_new_channels_have_the_statistics_of_what_reaches_them_and_old_ones_their_own(kind):
    model, _, _, trial = trial_of(kind)
    reached = {}
    norms = {path: m for path, m in trial.model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    for path, norm in norms.items():
        norm.register_forward_pre_hook(lambda _, inputs, path=path: reached.__setitem__(path, inputs[0]))
    trial.model(torch.cat([batch.inputs for batch in data()]))
    for path, norm in norms.items():
        changes = {change.name: change for change in trial._stage.changes.values()}
        keep = changes[f"{path}.running_mean"].keep[0]
        new = torch.tensor(sorted(set(range(norm.num_features)) - set(keep.tolist())))
        x = reached[path].transpose(0, 1).flatten(1)
        torch.testing.assert_close(norm.running_mean[new], x.mean(1)[new], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(norm.running_var[new], x.var(1)[new], atol=1e-5, rtol=1e-4)
        for key in ("running_mean", "running_var"):
            assert torch.equal(getattr(norm, key)[keep], getattr(model.get_submodule(path), key))


def read_by(model, paths, x):
    """What layers read."""
    seen = {}
    handles = [
        model.get_submodule(p).register_forward_pre_hook(lambda _, i, p=p: seen.__setitem__(p, i[0])) for p in paths
    ]
    model(x)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("units", [1, 3])
def test_the_model_widened_as_tried_reads_what_the_trial_did(kind, units):
    model, found, growing, trial = trial_of(kind)
    x = data(seed=3)[0].inputs
    for axis in growing:
        real = copy.deepcopy(model).eval()
        edit = widen(real, found, [trial.widening(axis.name, units)])
        grown = next(a for a in edit.axes if a.name == axis.name)
        tested = trial._stage.axes[axis.name]
        order = torch.cat([torch.arange(axis.size), axis.size + trial.first(axis.name, units)])
        seen = read_by(real, [m.module for m in grown.consumers], x)
        tried_inputs = read_by(trial.model, [m.module for m in tested.consumers], x)
        for ours, theirs in zip(grown.consumers, tested.consumers, strict=True):
            mine, yours = ours.index.flatten(), theirs.index[order].flatten()
            dim = seen[ours.module].ndim - 1 if isinstance(real.get_submodule(ours.module), nn.Linear) else 1
            torch.testing.assert_close(
                seen[ours.module].index_select(dim, mine),
                tried_inputs[theirs.module].index_select(dim, yours),
                atol=1e-5,
                rtol=1e-4,
            )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("damping", [0.1, None])
def test_the_edited_model_with_the_written_steps_has_the_loss_of_the_trial_with_the_steps_taken(kind, damping):
    model, found, growing, trial = trial_of(kind, units=4, damping=damping, dtype=torch.float64)
    b = data(seed=3, dtype=torch.float64)
    for axis in growing:  # an order that is not the pool's, so that units change places
        trial._orders[axis.name] = torch.tensor([2, 0, 3, 1])
    units = {axis.name: 1 + i % 3 for i, axis in enumerate(growing)}
    some = {name: count for i, (name, count) in enumerate(units.items()) if len(units) == 1 or i != 1}
    for chosen in (units, some):
        tangents = [trial.present_step(), *(trial.scored(name, count)[2] for name, count in chosen.items())]
        steps = [(tangent, 0.02 * (i + 1)) for i, tangent in enumerate(tangents)]
        moved = {name: parameter.detach().clone() for name, parameter in trial.model.named_parameters()}
        for tangent, length in steps:
            for name, value in tangent.items():
                moved[name] += length * value
        real = copy.deepcopy(model).eval()
        widen(real, found, [trial.widening(name, count) for name, count in chosen.items()])
        before = mean_loss(real, b, CE)
        with torch.no_grad():
            for name, value in trial.written(steps, chosen).items():
                real.get_parameter(name).add_(value)
        expected = mean_loss(trial.model, b, CE, moved)
        assert mean_loss(real, b, CE) == pytest.approx(expected, abs=1e-10)
        assert abs(expected - before) > 1e-4


def test_the_first_units_of_a_trial_are_worth_what_a_trial_of_only_them_is_worth():
    model, found, growing, trial = trial_of("mlp", damping=0.3)
    for axis in growing:
        few, scores = trial.widening(axis.name, 2), []
        for widening in (
            trial.widening(axis.name, 3),
            few,
        ):  # two of three, in an order that is kept, and the two alone
            draws = []
            for seed in range(40):  # of the Fisher noise
                alone = Trial(model, found, [widening], data(), CE, torch.Generator().manual_seed(seed), 0.3)
                alone._orders[axis.name] = trial.first(axis.name, 2)
                draws.append(alone.scored(axis.name, 2)[0])
            scores.append(sum(draws) / len(draws))
        assert scores[0] > 0
        assert scores[1] == pytest.approx(scores[0], rel=0.25)


@pytest.mark.parametrize("kind", KINDS)
def test_the_present_step_gains_on_an_undertrained_model_and_moves_only_what_is_there(kind):
    _, _, _, trial = trial_of(kind)
    step = trial.present_step()
    assert trial.judged([step], data(400, seed=4)).alone(0).gain > 0.001
    for name, value in step.items():
        rows, columns = trial._stage.kept(name.rpartition(".")[0])
        kept = torch.zeros_like(value)
        if name.endswith("weight"):
            kept[rows[:, None], columns] = value[rows[:, None], columns]
        else:
            kept[rows] = value[rows]
        assert torch.equal(kept, value)


def test_more_units_score_at_least_as_much_and_scores_bound_each_other():
    _, _, growing, trial = trial_of("convnet")
    for axis in growing:
        scores = [trial.scored(axis.name, units)[:2] for units in (1, 2, 3)]
        assert all(score >= bound >= 0 for score, bound in scores)


def test_units_of_other_axes_on_trial_do_not_change_the_damping():
    model, found, growing, both = trial_of("mlp")
    first = both.widening(growing[0].name, 3)
    b = [Batch(torch.cat([d.inputs for d in data()]), torch.cat([d.target for d in data()]), 60)]
    scores = []
    for widenings in ([first], [first, Widening(growing[1], 40)]):
        trial = Trial(model, found, widenings, b, CE, torch.Generator().manual_seed(0), 1.0)
        moments = trial.moments["mlp.hidden.1"]
        rows, _ = trial._stage.kept("mlp.hidden.1")
        assert not moments.S[[i for i in range(len(moments.S)) if i not in rows.tolist()]].any()
        scores.append(trial.scored(growing[0].name, 3)[0])
    assert scores[1] == pytest.approx(scores[0], rel=0.7)  # another draw; 44 rows of S would dilute it 14 times


def test_frozen_and_unknown_readers_are_refused_with_a_reason():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    model[2].requires_grad_(False)
    found = {axis.name: axis for axis in axes(model, torch.zeros(1, 4))}
    assert can_try(model, found["0"]) == "2.weight does not require gradients"
    assert can_try(model, found["4"]) == found["4"].reason
    assert [axis.name for axis in tried(model, list(found.values()), {"0": 1, "2": 1, "4": 1})] == ["2"]
    assert tried(model, list(found.values()), {"2": 0}) == []


def test_units_whose_reader_is_never_called_gain_nothing():
    class Direct(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 3), nn.Linear(3, 2)

        def forward(self, x):
            return F.linear(self.a(x).relu(), self.b.weight, self.b.bias)

    model = Direct()
    found = axes(model, torch.zeros(1, 4))
    axis = next(axis for axis in found if axis.growable)
    batch = Batch(torch.randn(20, 4), torch.randint(2, (20,)), 20)
    trial = Trial(model, found, [Widening(axis, 2)], [batch], CE, torch.Generator(), 0.1)
    score, bound, tangent = trial.scored(axis.name, 2)
    assert (score, bound, trial.judged([tangent], [batch]).alone(0).gain) == (0, 0, 0)


def test_norms_in_a_row_have_the_statistics_of_what_reaches_them():
    """New channels of the second are reached by those of the first, through a depthwise convolution."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.Conv2d(3, 3, 3, groups=3),
        nn.BatchNorm2d(3),
        nn.Flatten(),
        nn.Linear(48, 3),
    )
    batches = data()[1:]
    model(10 * batches[0].inputs)
    found = axes(model, torch.zeros(1, 1, 8, 8))
    (axis,) = (axis for axis in found if not can_try(model, axis))
    trial = Trial(model, found, [Widening(axis, 2)], batches, CE, torch.Generator().manual_seed(0), 0.1)
    x = trial.model[:4](batches[0].inputs).transpose(0, 1).flatten(1)
    torch.testing.assert_close(trial.model[4].running_mean[3:], x.mean(1)[3:])
    torch.testing.assert_close(trial.model[4].running_var[3:], x.var(1)[3:])


def test_hooks_are_gone_after_an_exception():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2))
    with pytest.raises(RuntimeError):
        settle(model, {"0": torch.arange(3)}, [Batch(torch.zeros(4, 4), torch.zeros(4, dtype=torch.long), 4)], CE)
    assert not model[0]._forward_pre_hooks


def test_frozen_biases_stay():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    model[2].bias.requires_grad_(False)
    x, y = torch.randn(80, 6), torch.randint(3, (80,))
    found = axes(model, x[:1])
    (axis,) = (axis for axis in found if not can_try(model, axis))
    trial = Trial(model, found, [Widening(axis, 2)], [Batch(x, y, 80)], CE, torch.Generator().manual_seed(0))
    assert list(trial.present_step()) == list(trial.scored(axis.name, 2)[2]) == ["2.weight"]


@pytest.mark.parametrize("setting", ["fisher", "convention"])
def test_how_moments_are_taken_can_be_said(setting):
    model = model_of("mlp")
    found = axes(model, torch.zeros(1, 1, 8, 8))
    widenings = [Widening(axis, 2) for axis in found if not can_try(model, axis)]
    with pytest.raises(InputError, match=f"unknown {setting} 'other'"):
        Trial(model, found, widenings, data(), CE, torch.Generator(), **{setting: "other"})


@pytest.mark.parametrize("kind", NAMES)
def test_of_a_head_of_very_many_classes_only_the_diagonal_is_kept(kind):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 6000))
    x, y = torch.randn(64, 5), torch.randint(6000, (64,))
    found, batches = axes(model, x[:1]), [Batch(x, y, 64)]
    (axis,) = (axis for axis in found if not can_try(model, axis))
    widenings = propose_all(kind, model, {axis: 2}, batches, CE, torch.Generator().manual_seed(0))
    trial = Trial(model, found, widenings, batches, CE, torch.Generator().manual_seed(0))
    judged = trial.judged([trial.present_step(), trial.scored(axis.name, 2)[2]], batches)
    assert trial.moments["2"].S.shape == (6000,)  # a matrix would be 288 MB, and 7e10 FLOPs to factorise
    assert judged.alone(0).gain > 0
    assert judged.alone(1).gain > 0


def dying(bias):
    """An MLP whose pool has a unit that never fires, by its bias."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    x, y = torch.randn(80, 6), torch.randint(3, (80,))
    found = axes(model, x[:1])
    axis = next(axis for axis in found if axis.growable)
    rows = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
    biases = torch.tensor([0.0, bias, 0.1, bias, -0.1])
    return model, found, Widening(axis, 5, {"0.weight": rows}, {"0.bias": biases}), [Batch(x, y, 80)]


def test_units_that_do_not_fire_are_drawn_anew_and_the_others_left_alone():
    model, found, widening, batches = dying(-1000.0)
    trial = Trial(model, found, [widening], batches, CE, torch.Generator().manual_seed(0), 0.1)
    new = slice(4, 9)
    assert bool((trial.model[0].bias[new].abs() < 1).all())
    assert torch.equal(trial.model[0].weight[new][[0, 2, 4]], widening.rows["0.weight"][[0, 2, 4]])
    assert bool((trial.model[0].weight[new][[1, 3]] != widening.rows["0.weight"][[1, 3]]).all())
    features = trial.model[1](trial.model[0](batches[0].inputs))[:, new]
    assert bool((features.square().mean(0) > 0).all())
    assert trial.first(widening.axis.name, 5).tolist() == list(range(5))


def test_units_that_cannot_be_revived_come_last(monkeypatch):
    monkeypatch.setattr("outgrow.grow.stage.REDRAWS", 0)
    model, found, widening, batches = dying(-1000.0)
    trial = Trial(model, found, [widening], batches, CE, torch.Generator().manual_seed(0))
    assert not {1, 3} & set(trial.first(widening.axis.name, 3).tolist())
    assert bool((trial.widening(widening.axis.name, 3).channels["0.bias"] > -1).all())


def test_copies_of_present_units_come_last():
    model, found, widening, batches = dying(0.0)
    widening.rows["0.weight"][1], widening.channels["0.bias"][1] = (
        model[0].weight[2].detach(),
        model[0].bias[2].detach(),
    )
    widening.rows["0.weight"][2], widening.channels["0.bias"][2] = widening.rows["0.weight"][0], 0.0
    for damping in (0.01, 1.0, None):
        trial = Trial(model, found, [widening], batches, CE, torch.Generator().manual_seed(0), damping)
        best = trial.first(widening.axis.name, 3).tolist()
        assert 1 not in best
        assert (0 in best) != (2 in best)


@pytest.mark.parametrize("kind", KINDS)
def test_a_damping_is_chosen_for_each_axis_where_none_is_given(kind):
    _, _, growing, trial = trial_of(kind, damping=None)
    assert set(trial.dampings) == {axis.name for axis in growing}
    assert set(trial.dampings.values()) <= set(DAMPINGS)
    _, _, growing, fixed = trial_of(kind, damping=0.25)
    assert set(fixed.dampings.values()) == {0.25}


def test_a_wide_layer_has_a_fixed_damping(monkeypatch):
    monkeypatch.setattr("outgrow.grow.weights.WIDE", 3)
    _, _, _, trial = trial_of("mlp", damping=None)
    assert set(trial.dampings.values()) == {DAMPING}


def test_the_chosen_damping_holds_out_as_well_as_the_best_fixed_one():
    """By the gain on fresh data, over axes and seeds: within a tenth of the best fixed damping, above the worst."""
    totals = dict.fromkeys((*DAMPINGS, None), 0.0)
    for seed in range(4):
        for damping in totals:
            torch.manual_seed(seed)
            model = nn.Sequential(nn.Linear(10, 4), nn.ReLU(), nn.Linear(4, 3))
            x = torch.randn(1200, 10)
            y = (x[:, 0] * x[:, 1] > 0).long() + (x[:, 2] > 0.5).long()
            found = axes(model, x[:1])
            axis = next(axis for axis in found if axis.growable)
            a, b = Batch(x[:200], y[:200], 200), Batch(x[200:], y[200:], 1000)
            trial = Trial(model, found, [Widening(axis, 8)], [a], CE, torch.Generator().manual_seed(seed), damping)
            totals[damping] += trial.judged([trial.scored(axis.name, 8)[2]], [b]).alone(0).gain
    fixed = [totals[damping] for damping in DAMPINGS]
    assert totals[None] > 0.9 * max(fixed)
    assert totals[None] > min(fixed)
