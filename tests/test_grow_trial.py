"""New units on trial: function kept, statistics true, and what is applied is what was tried."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from outgrow.grow.gain import mean_loss, realised
from outgrow.grow.objective import OutputLoss
from outgrow.grow.sample import Batch
from outgrow.grow.trial import Trial, can_try, tried
from outgrow.models.seed import Seed
from outgrow.net.axes import axes
from outgrow.net.widening import Widening, widen

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


def model_of(kind):
    torch.manual_seed(0)
    if kind == "concat":
        return Concat()
    widths = {"mlp": (4, 3), "convnet": (2, 3, 4, 2), "resnet": (2, 3)}[kind]
    return Seed(kind, (1, 8, 8), 3, widths).build()


def data(n=60, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 1, 8, 8, generator=generator)
    y = (x.mean((1, 2, 3)) > 0).long() + (x[:, 0, :4].mean((1, 2)) > 0.1).long()
    return [Batch(x[: n // 3], y[: n // 3], n // 3), Batch(x[n // 3 :], y[n // 3 :], n - n // 3)]


def trial_of(kind, units=3, damping=0.1):
    model = model_of(kind)
    for batch in data(seed=2):  # statistics that differ from those of a fresh layer
        model(batch.inputs)
    found = axes(model, torch.zeros(1, 1, 8, 8))
    growing = [axis for axis in found if not can_try(model, axis)]
    trial = Trial(
        model,
        found,
        [Widening(axis, units) for axis in growing],
        data(),
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
        changes = {change.name: change for change in trial._edit.changes}
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
def test_the_model_widened_as_tried_reads_and_gains_what_the_trial_did(kind, units):
    model, found, growing, trial = trial_of(kind)
    b = data(seed=3)
    for axis in growing:
        _, _, tangent = trial.scored(axis.name, units)
        gain = trial.judged([tangent], b).alone(0)
        drop = realised(trial.model, tangent, gain.step, b, CE, mean_loss(trial.model, b, CE))
        real = copy.deepcopy(model).eval()
        edit = widen(real, found, [trial.widening(axis.name, units)])
        grown = next(a for a in edit.axes if a.name == axis.name)
        tested = next(a for a in trial._edit.axes if a.name == axis.name)
        seen = read_by(real, [m.module for m in grown.consumers], b[0].inputs)
        tried_inputs = read_by(trial.model, [m.module for m in tested.consumers], b[0].inputs)
        step = {name: torch.zeros_like(parameter) for name, parameter in real.named_parameters() if name in tangent}
        for ours, theirs in zip(grown.consumers, tested.consumers, strict=True):
            mine, yours = ours.index.flatten(), theirs.index[: grown.size].flatten()
            dim = seen[ours.module].ndim - 1 if isinstance(real.get_submodule(ours.module), nn.Linear) else 1
            torch.testing.assert_close(
                seen[ours.module].index_select(dim, mine),
                tried_inputs[theirs.module].index_select(dim, yours),
                atol=1e-5,
                rtol=1e-4,
            )
        for name in step:
            rows, columns = trial._kept(name.rpartition(".")[0])
            value = tangent[name][rows]
            if name.endswith("weight"):
                member = next(m for m in tested.consumers if m.tensor == name)
                at = torch.cat([columns, member.index[axis.size : axis.size + units].flatten()])
                order = torch.argsort(at)
                value = value[:, at[order]]
            step[name] = value
        realised_there = realised(real, step, gain.step, b, CE, mean_loss(real, b, CE))
        assert realised_there == pytest.approx(drop, abs=1e-5)


def test_the_first_units_of_a_trial_are_worth_what_a_trial_of_only_them_is_worth():
    model, found, growing, trial = trial_of("mlp", damping=1e-3)
    for axis in growing:
        few = trial.widening(axis.name, 2)
        alone = Trial(model, found, [few], data(), CE, torch.Generator().manual_seed(5), 1e-3)
        a, b = trial.scored(axis.name, 2)[2], alone.scored(axis.name, 2)[2]
        one, two = trial.judged([a], data(seed=3)).alone(0), alone.judged([b], data(seed=3)).alone(0)
        assert two.gain == pytest.approx(one.gain, rel=0.25, abs=1e-3)  # another draw of the Fisher noise


@pytest.mark.parametrize("kind", KINDS)
def test_the_present_step_gains_on_an_undertrained_model_and_moves_only_what_is_there(kind):
    _, _, _, trial = trial_of(kind)
    step = trial.present_step()
    assert trial.judged([step], data(400, seed=4)).alone(0).gain > 0.001
    for name, value in step.items():
        rows, columns = trial._kept(name.rpartition(".")[0])
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
        rows, _ = trial._kept("mlp.hidden.1")
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
