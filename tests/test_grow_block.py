"""Blocks on trial: function kept, steps and gains true to first order, and what is inserted is what was tried."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from net_cases import noise
from outgrow.errors import InputError
from outgrow.grow.block import BlockTrial
from outgrow.grow.gain import judge, mean_loss, realised
from outgrow.grow.kink import Halfway, OneSided
from outgrow.grow.objective import OutputLoss
from outgrow.grow.rows import natural_steps
from outgrow.grow.sample import Batch
from outgrow.net.cost import flops, parameters
from outgrow.net.deepen import deepen_, insert_block_, late_first
from outgrow.net.inputs import call
from outgrow.net.places import places
from place_cases import CASES, IMAGE, ROW, Case, ConvNeXtBlock


def floats(result) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]


def loss(result, target: Tensor) -> Tensor:
    """Squares of one number for each example, of every output with another weight."""
    flat = torch.cat([leaf.flatten(1) for leaf in floats(result)], 1)
    return (flat @ torch.linspace(-1, 1, flat.shape[1]).to(flat) - target).square().mean()


OBJECTIVE = OutputLoss(loss)
MORE = {
    "tanh": Case(lambda: nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2)), ROW),
    "pooled": Case(
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)), IMAGE
    ),
}
KINDS = {name: case for name, case in CASES.items() if case.residual or case.chain} | MORE


def data(case: Case, n: int, seed: int, batches: int = 1) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)

    def batch() -> Batch:
        inputs = pytree.tree_map(
            lambda t: torch.randn(n, *t.shape[1:], generator=generator, dtype=torch.float64), case.inputs(torch.float64)
        )
        return Batch(inputs, torch.randn(n, generator=generator, dtype=torch.float64), n)

    return [batch() for _ in range(batches)]


def trial_of(name: str, damping: float = 0.1, batches: int = 1, init: str = "copy"):
    case = KINDS[name]
    model = case.model(torch.float64)
    found = [place for place in places(model, case.inputs(torch.float64)) if place.growable]
    a = data(case, 40, 1, batches)
    return model, found, BlockTrial(model, found, a, OBJECTIVE, torch.Generator().manual_seed(0), damping, init), a


@pytest.mark.parametrize("name", KINDS)
def test_the_trial_computes_what_the_model_computes_and_the_model_is_left_alone(name):
    before = copy.deepcopy(KINDS[name].model(torch.float64).state_dict())
    model, found, trial, (a,) = trial_of(name)
    for place in found:
        trial.scored(place.name)
        trial.insertion(place.name)
    assert found
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert len([*trial.model.modules()]) > len([*model.modules()])
    for ours, theirs in zip(floats(call(trial.model, a.inputs)), floats(call(model.eval(), a.inputs)), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("name", ["seed", "basic", "bottleneck", "norms"])
def test_new_norms_have_the_statistics_of_what_reaches_them(name):
    _, found, trial, (a,) = trial_of(name)
    reached = {}
    for place in found:
        for path in trial._paths[place.name]:
            for module in trial.model.get_submodule(path).modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.register_forward_pre_hook(
                        lambda m, i: reached.__setitem__(m, i[0].transpose(0, 1).flatten(1))
                    )
    call(trial.model, a.inputs)
    assert reached
    for norm, x in reached.items():
        torch.testing.assert_close(norm.running_mean, x.mean(1), atol=1e-10, rtol=1e-10)
        torch.testing.assert_close(norm.running_var, x.var(1), atol=1e-10, rtol=1e-10)


def test_batches_count_together():
    _, found, one, a = trial_of("norms", batches=2)
    model = KINDS["norms"].model(torch.float64)
    joined = [Batch(torch.cat([b.inputs for b in a]), torch.cat([b.target for b in a]), 80)]
    other = BlockTrial(model, found, joined, OBJECTIVE, torch.Generator().manual_seed(0), 0.1)
    for (key, ours), theirs in zip(one.model.named_buffers(), other.model.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, msg=key)


# the step


def dense_score(model: nn.Module, names: list[str], batch: Batch) -> float:
    """g^T F^-1 g of some parameters, from the whole Jacobian."""
    values = {name: model.get_parameter(name).detach() for name in names}

    def number(values) -> Tensor:
        result = torch.func.functional_call(model, values, (batch.inputs,))
        flat = torch.cat([leaf.flatten(1) for leaf in floats(result)], 1)
        return flat @ torch.linspace(-1, 1, flat.shape[1]).to(flat)

    jacobian = torch.cat([j.reshape(batch.size, -1) for j in torch.func.jacrev(number)(values).values()], 1)
    gap = number(values) - batch.target
    gradient, fisher = 2 * jacobian.mT @ gap / batch.size, 2 * jacobian.mT @ jacobian / batch.size
    return float(gradient @ torch.linalg.lstsq(fisher, gradient, driver="gelsd").solution)


SMALL = [("tanh", "1"), ("norms", "fc.1"), ("convnext", "stages.0"), ("convnext", "stages.1"), ("counted", "blocks.1")]


@pytest.mark.parametrize(("name", "place"), SMALL)
def test_undamped_a_block_gains_half_its_dense_score_where_it_was_chosen(name, place):
    _, _, trial, a = trial_of(name, damping=0.0)
    score, bound, tangent = trial.scored(place)
    assert score == bound == pytest.approx(dense_score(trial.model, [*tangent], a[0]), rel=1e-6)
    assert trial.judged([tangent], a).alone(0).gain == pytest.approx(score / 2, rel=1e-6)


@pytest.mark.parametrize(("name", "place"), [("gelu", "1"), ("gelu", "4"), ("prelu", "1")])
def test_the_pieces_of_many_parameters_keep_much_of_their_dense_score_and_never_exceed_it(name, place):
    _, _, trial, a = trial_of(name, damping=0.01)
    score, _, tangent = trial.scored(place)
    assert 0 < score <= dense_score(trial.model, [*tangent], a[0])
    assert trial.judged([tangent], a).alone(0).gain >= score / 2


@pytest.mark.parametrize("name", KINDS)
def test_the_slope_is_the_drop_of_the_loss_to_first_order(name):
    """Also where half of what a block hands to a ReLU is exactly at its kink."""
    _, found, trial, _ = trial_of(name)
    b = data(KINDS[name], 60, 2)
    before = mean_loss(trial.model, b, OBJECTIVE)
    for place in found:
        _, _, tangent = trial.scored(place.name)
        slope = float(trial.judged([tangent], b).slopes.mean())
        size = float(torch.cat([value.flatten() for value in tangent.values()]).norm())
        small = 1e-7 / size
        drop = realised(trial.model, tangent, small, b, OBJECTIVE, before)
        assert drop / small == pytest.approx(slope, rel=1e-3, abs=1e-5 * size)


@pytest.mark.parametrize(("name", "place"), [("mlp", "1"), ("seed", "resnet.stages.0.0")])
def test_without_the_derivative_at_kinks_it_is_not(name, place):
    _, _, trial, _ = trial_of(name)
    b = data(KINDS[name], 60, 2)
    tangent = trial.scored(place)[2]
    plain, true = judge(trial.model, [tangent], b, OBJECTIVE), trial.judged([tangent], b)
    assert abs(float(plain.slopes.mean() - true.slopes.mean())) > 0.01 * float(plain.slopes.mean().abs())


def test_useless_blocks_gain_nothing():
    case, worth = KINDS["tanh"], []
    for seed in range(20):
        torch.manual_seed(seed)
        model = case.build().double()
        nn.init.zeros_(model[2].bias)
        model[2].weight.data *= 1e-4  # about the best guess there is: nothing
        found = places(model, case.inputs(torch.float64))
        a, b = data(case, 60, 3 * seed + 1), data(case, 60, 3 * seed + 2)
        trial = BlockTrial(model, found, a, OBJECTIVE, torch.Generator().manual_seed(seed), 0.1)
        gain = trial.judged([trial.scored("1")[2]], b).alone(0)
        worth.append(gain.gain - 2 * gain.se)
    assert max(worth) <= 0


@pytest.mark.parametrize("name", ["seed", "mlp", "pre-norm", "convolutions"])
def test_the_present_step_descends_and_moves_only_what_was_there(name):
    _, found, trial, a = trial_of(name)
    present = trial.present_step()
    new = {module for place in found for top in trial._made[place.name].modules for module in top.modules()}
    assert present
    assert not any(trial.model.get_submodule(key.rpartition(".")[0]) in new for key in present)
    assert trial.judged([present], a).alone(0).gain > 0


def test_a_grouped_convolution_may_be_what_is_zero_in_a_block():
    class Grouped(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix, self.out = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1, groups=2)

        def forward(self, x):
            return x + self.out(torch.tanh(self.mix(x)))

    case = Case(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), Grouped(), Grouped(), nn.Flatten(), nn.Linear(144, 2)), IMAGE)
    model, a = case.model(torch.float64), data(case, 40, 1)
    found = [place for place in places(model, case.inputs(torch.float64)) if place.growable]
    trial = BlockTrial(model, found, a, OBJECTIVE, torch.Generator().manual_seed(0), 0.1)
    assert found
    for place in found:
        assert trial.judged([trial.scored(place.name)[2]], a).alone(0).gain > 0


@pytest.mark.parametrize("name", ["mlp", "pre-norm"])
def test_frozen_biases_stay(name):
    case = KINDS[name]
    model = case.model(torch.float64)
    frozen = [key for key, _ in model.named_parameters() if key.endswith(".bias")][::2]
    for key in frozen:
        model.get_parameter(key).requires_grad_(False)
    found = [place for place in places(model, case.inputs(torch.float64)) if place.growable]
    a = data(case, 40, 1)
    trial = BlockTrial(model, found, a, OBJECTIVE, torch.Generator().manual_seed(0), 0.1)
    present = trial.present_step()
    assert {key for key in present if key.endswith(".bias")}
    assert not set(frozen) & set(present)
    assert trial.judged([present], a).alone(0).gain > 0


@pytest.mark.parametrize("name", ["mlp", "basic", "convnext"])
def test_the_gradient_is_that_of_what_moves(name):
    _, found, trial, (a,) = trial_of(name)
    trial.model.requires_grad_(True)
    with Halfway():
        loss(call(trial.model, a.inputs), a.target).backward()
    for place in found:
        grads = [trial.model.get_parameter(key).grad for key in trial.scored(place.name)[2]]
        assert trial.gradient(place.name) == pytest.approx(float(torch.cat([g.flatten() for g in grads]).norm()))


@pytest.mark.parametrize("setting", ["fisher", "convention"])
def test_how_moments_are_taken_can_be_said(setting):
    case = KINDS["mlp"]
    model = case.model(torch.float64)
    with pytest.raises(InputError, match=f"unknown {setting} 'other'"):
        BlockTrial(model, [], data(case, 8, 1), OBJECTIVE, torch.Generator(), 0.1, **{setting: "other"})


# what is inserted


@pytest.mark.parametrize("init", ["copy", "fresh"])
@pytest.mark.parametrize("name", KINDS)
def test_the_step_of_an_inserted_block_gives_exactly_the_loss_of_the_trial(name, init):
    model, found, trial, _ = trial_of(name, init=init)
    b = data(KINDS[name], 50, 3)
    for place in found if init == "copy" else found[:1]:
        tangent = trial.scored(place.name)[2]
        step = min(trial.judged([tangent], b).alone(0).step, 0.1) or 0.01
        before = mean_loss(trial.model, b, OBJECTIVE)
        there = before - realised(trial.model, tangent, step, b, OBJECTIVE, before)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        edit = insert_block_(model, trial.insertion(place.name), example=b[0].inputs, optimizer=optimizer)
        assert len(optimizer.param_groups[0]["params"]) == len([*model.parameters()])
        values = trial.written(model, place.name, tangent, step)
        assert set(values) <= {key for key, _ in model.named_parameters()}
        model.eval()
        assert mean_loss(model, b, OBJECTIVE) == pytest.approx(before, rel=1e-10)
        assert mean_loss(model, b, OBJECTIVE, values) == pytest.approx(there, rel=1e-10)
        model.train()
        edit.undo()


@pytest.mark.parametrize("name", KINDS)
def test_all_blocks_can_go_in_one_after_the_other(name):
    model, found, trial, _ = trial_of(name)
    b = data(KINDS[name], 50, 3)
    tangents = {place.name: trial.scored(place.name)[2] for place in found}
    for insertion in [trial.insertion(place.name) for place in late_first(model, found)]:
        insert_block_(model, insertion, example=b[0].inputs)
    values = {k: v for place, t in tangents.items() for k, v in trial.written(model, place, t, 1e-2).items()}
    together = {key: value for tangent in tangents.values() for key, value in tangent.items()}
    before = mean_loss(trial.model, b, OBJECTIVE)
    there = before - realised(trial.model, together, 1e-2, b, OBJECTIVE, before)
    model.eval()
    assert [type(m) for m in model.modules()] == [type(m) for m in trial.model.modules()]
    assert mean_loss(model, b, OBJECTIVE, values) == pytest.approx(there, rel=1e-10)


@pytest.mark.parametrize("name", [name for name in KINDS if name != "pre-norm"])
def test_a_block_costs_what_it_adds(name):
    model, found, trial, (a,) = trial_of(name)
    example = pytree.tree_map(lambda t: t[:1], a.inputs)
    before = parameters(model), flops(model, example)
    for place in found:
        edit = deepen_(model, place.name, example=a.inputs)
        assert trial.cost(place.name) == (parameters(model) - before[0], flops(model, example) - before[1])
        edit.undo()


def test_the_attention_of_a_block_costs_too():
    model, _, trial, (a,) = trial_of("pre-norm")
    example = a.inputs[:1]
    before = flops(model, example)
    deepen_(model, "0.layers.1", example=a.inputs)
    assert trial.cost("0.layers.1")[1] == flops(model, example) - before


def test_what_a_block_shares_the_inserted_one_shares_with_the_real_model():
    class Shared(nn.Module):
        def __init__(self, shared: nn.Module):
            super().__init__()
            self.shared, self.out = shared, nn.Linear(3, 3)

        def forward(self, x):
            return x + self.out(torch.tanh(self.shared(x)))

    def build():
        shared = nn.Linear(3, 3)
        return nn.Sequential(Shared(shared), Shared(shared), nn.Linear(3, 2))

    model = build().double()
    found = places(model, ROW.double())
    a = data(Case(build, ROW), 20, 1)
    trial = BlockTrial(model, found, a, OBJECTIVE, torch.Generator().manual_seed(0), 0.1)
    (block,) = trial.insertion(found[1].name).modules
    assert block.shared is model[0].shared
    assert trial.cost(found[1].name)[0] == 12
    assert trial.insertion(found[1].name) is trial.insertion(found[1].name)


def test_a_frozen_block_is_no_place():
    model = nn.Sequential(*(ConvNeXtBlock(3) for _ in range(2)))
    model[0].gamma.requires_grad_(False)
    assert [place.name for place in places(model, IMAGE) if place.kind == "residual"] == ["1"]


# parts


@pytest.mark.parametrize("names", [["1.weight", "1.bias"], ["0.weight"], ["2.in_proj_weight", "1.bias"]])
def test_natural_steps_are_those_of_single_examples(names):
    torch.manual_seed(0)

    class Attention(nn.MultiheadAttention):
        def forward(self, x):
            return super().forward(x, x, x, need_weights=False)[0]

    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), Attention(4, 2, batch_first=True)).double().eval()
    batch = Batch(noise(5, 3, 4).double(), noise(5).double(), 5)
    steps = natural_steps(model, names, [batch], OBJECTIVE, torch.Generator().manual_seed(7), 0.3)
    answer = OBJECTIVE.answer(model, batch)
    (drawn,) = answer.draw(torch.Generator().manual_seed(7))
    for name in names:
        parameter = model.get_parameter(name)
        rows = torch.stack(
            [
                torch.autograd.grad((answer.values[0][i] * drawn[i]).sum(), parameter, retain_graph=True)[0].flatten()
                for i in range(5)
            ]
        )
        fisher = rows.mT @ rows / 5
        gradient = torch.autograd.grad(loss(model(batch.inputs), batch.target), parameter)[0].flatten()
        ridge = 0.3 * fisher.diagonal().mean() * torch.eye(len(fisher)).double()
        expected = -torch.linalg.solve(fisher + ridge, gradient)
        torch.testing.assert_close(steps[name].flatten(), expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("mode", [OneSided, Halfway])
@pytest.mark.parametrize(
    "act", [nn.ReLU(), nn.ReLU(True), nn.ReLU6(), nn.Hardtanh(-1, 2), nn.Hardtanh(0, 1, True), torch.relu_, nn.GELU()]
)
def test_values_stay_at_kinks(mode, act):
    x = torch.tensor([-3.0, -1.0, 0.0, 0.5, 1.0, 2.0, 6.0, 7.0])
    expected, ours = act(x.clone()), x.clone()
    with mode():
        found = act(ours)
    assert torch.equal(found, expected)
    assert (found is ours) == (act(x) is x)


def test_derivatives_at_both_ends_lead_inwards():
    act, x = nn.Hardtanh(-1, 2), torch.tensor([-1.0, -1.0, 2.0, 2.0, 0.0, 5.0])
    tangents = torch.tensor([[3.0, -3.0, 3.0, -3.0, 3.0, 3.0], [0.0, 0.0, 0.0, 0.0, -2.0, -2.0]])
    with OneSided():
        found = torch.func.vmap(lambda t: torch.func.jvp(act, (x,), (t,))[1])(tangents)
    assert found.tolist() == [[3.0, 0.0, 0.0, -3.0, 3.0, 0.0], [0.0, 0.0, 0.0, 0.0, -2.0, 0.0]]
    with Halfway():
        halves = torch.func.jvp(act, (x,), (tangents[0],))[1]
    assert halves.tolist() == [1.5, -1.5, 1.5, -1.5, 3.0, 0.0]
