"""Widening keeps the function, can be taken back, and leaves a network like any other."""

import copy
import pickle
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from net_cases import CASES, IMAGE, ROW, Case, Chain, axes_of, noise
from outgrow.errors import EditError, GrowthError, InputError
from outgrow.net.axes import Axis, Member, axes
from outgrow.net.carry import adopt_shapes_
from outgrow.net.edit import Edit
from outgrow.net.inputs import call
from outgrow.net.preserve import TOLERANCE, change
from outgrow.net.rules import RULES, join
from outgrow.net.surgery import tensors_of
from outgrow.net.widen import apply_, widen_
from outgrow.net.widening import Widening

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def run(model: nn.Module, case: Case, training: bool) -> list[Tensor]:
    """Outputs of a copy, so that running statistics stay."""
    torch.manual_seed(0)
    with torch.no_grad():
        result = call(copy.deepcopy(model).train(training), case.example)
    return pytree.tree_leaves(result)


def modes(case: Case) -> list[bool]:
    return [False] if case.dropout else [False, True]


def grown(case: Case, found: list[Axis], units: dict[str, int], **options) -> tuple[nn.Module, nn.Module, Edit]:
    model = case.model()
    wider = copy.deepcopy(model)
    widenings = [Widening(axis, units[axis.name]) for axis in found if axis.name in units]
    return model, wider, apply_(wider, found, widenings, inputs=case.example, **options)


def plain(found: list[Axis]) -> list[object]:
    return [
        (a.name, a.size, a.growable, [(m.tensor, m.dim, m.index.tolist(), m.roles) for m in a.members]) for a in found
    ]


def sizes_beside_weights(model: nn.Module) -> Iterator[bool]:
    """Whether every layer says of itself what its weights say."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            yield module.weight.shape == (module.out_features, module.in_features)
        elif isinstance(module, nn.modules.conv._ConvNd) and not module.transposed:
            yield module.weight.shape[:2] == (module.out_channels, module.in_channels // module.groups)
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):
            yield len(module.running_mean) == module.num_features
        elif isinstance(module, nn.PReLU):
            yield len(module.weight) == module.num_parameters
        elif isinstance(module, nn.Embedding):
            yield module.weight.shape == (module.num_embeddings, module.embedding_dim)


@every_case
def test_the_function_is_kept(case: Case):
    found = axes_of(case)
    everything = dict.fromkeys(case.growable, 2)
    for units in [*({name: k} for name in case.growable for k in (1, 3)), everything]:
        model, wider, edit = grown(case, found, units)
        assert edit.moved <= TOLERANCE
        for training in modes(case):
            assert change(run(model, case, training), run(wider, case, training)) <= 1e-5, (units, training)
        assert all(sizes_beside_weights(wider))
    assert plain(edit.axes) == plain(axes(wider, case.example))
    assert all(not p.requires_grad or p.is_leaf for p in wider.parameters())


@every_case
def test_old_entries_are_bit_equal(case: Case):
    model, _, edit = grown(case, axes_of(case), dict.fromkeys(case.growable, 3))
    before = tensors_of(model)
    for found in edit.changes:
        entries = found.new.detach()
        for dim, keep in enumerate(found.keep):
            entries = entries.index_select(dim, keep)
        assert torch.equal(entries, before[found.name]), found.name


@every_case
def test_twice_is_the_sum(case: Case):
    found = axes_of(case)
    name = next(iter(case.growable))
    _, once, _ = grown(case, found, {name: 5})
    _, twice, edit = grown(case, found, {name: 2})
    again = next(axis for axis in edit.axes if axis.name == name)
    last = apply_(twice, edit.axes, [Widening(again, 3)], inputs=case.example)
    assert [t.shape for t in once.state_dict().values()] == [t.shape for t in twice.state_dict().values()]
    assert repr(once) == repr(twice)
    assert plain(last.axes) == plain(axes(once, case.example))


def everything_in(model: nn.Module, optimizer: torch.optim.Optimizer) -> object:
    """Tensors by identity and by value, sizes of modules, groups and state of the optimizer."""
    tensors = {name: (id(t), t.tolist()) for name, t in model.state_dict(keep_vars=True).items()}
    sizes = [{k: v for k, v in vars(m).items() if isinstance(v, (int, tuple))} for m in model.modules()]
    groups = [[id(p) for p in group["params"]] for group in optimizer.param_groups]
    state = {
        id(p): {k: (id(v), v.tolist()) if isinstance(v, Tensor) else v for k, v in entries.items()}
        for p, entries in optimizer.state.items()
    }
    return tensors, sizes, groups, state


def trained(case: Case, optimizer: type[torch.optim.Optimizer] = torch.optim.AdamW, steps: int = 2):
    model = case.model().train()
    return model, step(model, case, optimizer(model.parameters(), lr=0.01), steps)


def step(model: nn.Module, case: Case, optimizer: torch.optim.Optimizer, steps: int = 1) -> torch.optim.Optimizer:
    for _ in range(steps):
        optimizer.zero_grad()
        sum(
            (leaf * noise(*leaf.shape).to(leaf)).sum() for leaf in pytree.tree_leaves(call(model, case.example))
        ).backward()
        optimizer.step()
    return optimizer


@every_case
def test_undo_is_as_if_nothing_had_been(case: Case):
    model, optimizer = trained(case)
    before = everything_in(model, optimizer)
    found = axes_of(case)
    edit = apply_(model, found, [Widening(a, 2) for a in found if a.growable], inputs=case.example, optimizer=optimizer)
    assert everything_in(model, optimizer) != before
    edit.undo()
    assert everything_in(model, optimizer) == before
    edit.undo()  # once more does nothing
    assert everything_in(model, optimizer) == before


def test_undo_after_some_training_takes_back_what_was_edited():
    case = CASES["mlp"]
    model, optimizer = trained(case)
    tensors, _, _, state = everything_in(model, optimizer)
    edit = widen_(model, "mlp.hidden.1", 2, example=case.example, optimizer=optimizer)
    step(model, case, optimizer)
    edit.undo()
    after_tensors, _, _, after_state = everything_in(model, optimizer)
    for found in edit.changes:
        assert after_tensors[found.name] == tensors[found.name]
        assert after_state[id(found.old)] == state[id(found.old)]  # the count of steps, too


@every_case
def test_new_units_learn(case: Case):
    model = case.model().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    found = axes_of(case)
    edit = apply_(
        model, found, [Widening(a, 12) for a in found if a.growable], inputs=case.example, optimizer=optimizer
    )
    present = {name: tensor.detach().clone() for name, tensor in tensors_of(model).items()}

    def moved(member: Member, size: int) -> bool:
        tensor, places = tensors_of(model)[member.tensor], member.index[size:].flatten()
        return bool((tensor != present[member.tensor]).index_select(member.dim, places).any())

    grown_axes = [axis for axis in edit.axes if axis.growable]
    step(model, case, optimizer)
    for axis in grown_axes:
        assert any(moved(m, case.growable[axis.name]) for m in axis.consumers), f"columns of {axis.name}"
    step(model, case, optimizer)
    for axis in grown_axes:
        assert any(moved(m, case.growable[axis.name]) for m in axis.producers), f"rows of {axis.name}"


@every_case
def test_a_widened_network_is_like_any_other(case: Case):
    model, wider, _ = grown(case, axes_of(case), dict.fromkeys(case.growable, 2))
    out = run(wider, case, False)
    fresh = case.model()
    adopt_shapes_(fresh, wider.state_dict())
    for twin in (copy.deepcopy(wider), fresh):
        assert repr(twin) == repr(wider)
        assert all(torch.equal(a, b) for a, b in zip(run(twin, case, False), out, strict=True))
    assert change(run(model, case, False), out) <= 1e-5


def test_a_widened_network_can_be_pickled():
    case = CASES["inverted"]
    _, wider, _ = grown(case, axes_of(case), {"up": 3})
    twin = pickle.loads(pickle.dumps(wider))
    assert all(torch.equal(a, b) for a, b in zip(run(twin, case, False), run(wider, case, False), strict=True))


def test_a_depthwise_convolution_gets_groups_and_filters():
    case = CASES["inverted"]
    _, wider, _ = grown(case, axes_of(case), {"up": 40})
    layer = wider.depthwise
    assert (layer.groups, layer.in_channels, layer.out_channels) == (46, 46, 46)
    assert layer.weight[6:].std() > 0.1  # drawn as a fresh layer draws them, not one value for all
    assert layer.weight[6:].abs().max() <= 1 / 3


def test_new_rows_are_drawn_as_a_fresh_layer_draws_them():
    model = nn.Sequential(nn.Linear(16, 4), nn.ReLU(), nn.Linear(4, 2))
    widen_(model, "0", 400, example=noise(2, 16))
    new = model[0].weight[4:].detach()
    assert new.abs().max() <= 0.25
    assert new.std() == pytest.approx(0.25 / 3**0.5, rel=0.05)
    assert model[0].bias[4:].detach().std() == pytest.approx(0.25 / 3**0.5, rel=0.2)
    assert not model[2].weight[:, 4:].any()


def test_the_padding_token_stays_zero():
    case = CASES["bag"]
    model = case.model()
    with torch.no_grad():
        model.embed.weight[0] = 0.0
    widen_(model, "embed", 3, example=case.example)
    assert not model.embed.weight[0].any()
    assert model.embed.weight[1:, 4:].any()


def test_given_rows_are_taken():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    found = axes(model, ROW)
    widening = Widening(found[0], 2, {"0.weight": noise(2, 3)}, {"0.bias": noise(2), "1.running_var": noise(2).exp()})
    apply_(model, found, [widening], inputs=ROW)
    assert torch.equal(model[0].weight[4:], noise(2, 3))
    assert torch.equal(model[0].bias[4:], noise(2))
    assert torch.equal(model[1].running_var[4:], noise(2).exp())
    assert model[1].weight[4:].tolist() == [1.0, 1.0]


def test_the_same_generator_gives_the_same_rows():
    twins = [CASES["mlp"].model() for _ in range(2)]
    for model in twins:
        widen_(model, "mlp.hidden.0", 3, example=CASES["mlp"].example, generator=torch.Generator().manual_seed(7))
    assert all(torch.equal(a, b) for a, b in zip(*(m.state_dict().values() for m in twins), strict=True))


def test_frozen_weights_stay_frozen():
    model = CASES["mlp"].model()
    model[1].hidden[1].weight.requires_grad_(False)
    widen_(model, "mlp.hidden.1", 1, example=CASES["mlp"].example)
    assert [p.requires_grad for p in (model[1].hidden[1].weight, model[1].hidden[1].bias)] == [False, True]


def test_units_that_only_frozen_weights_read_are_not_offered():
    model = CASES["mlp"].model()
    model[1].head.weight.requires_grad_(False)
    with pytest.raises(GrowthError, match=r"can't grow: mlp.head.weight does not require gradients"):
        widen_(model, "mlp.hidden.1", 1, example=CASES["mlp"].example)


def test_marks_and_gradients_of_a_parameter_are_carried():
    case = CASES["mlp"]
    model, optimizer = trained(case)
    old = model[1].hidden[1].weight
    old.grad, old.no_decay = torch.ones_like(old), True
    widen_(model, "mlp.hidden.1", 2, example=case.example, optimizer=optimizer)
    new = model[1].hidden[1].weight
    assert new.no_decay
    assert torch.equal(new.grad, torch.cat([torch.ones_like(old), torch.zeros(2, old.shape[1])]))


def test_edits_are_undone_last_first():
    case = CASES["mlp"]
    model, optimizer = trained(case)
    before = everything_in(model, optimizer)
    first = widen_(model, "mlp.hidden.0", 1, example=case.example, optimizer=optimizer)
    second = widen_(model, "mlp.hidden.1", 1, example=case.example, optimizer=optimizer)
    between = everything_in(model, optimizer)
    with pytest.raises(GrowthError, match=r"widening mlp.hidden.0 by 1: a later edit has changed the same tensors"):
        first.undo()
    assert everything_in(model, optimizer) == between
    second.undo()
    first.undo()
    assert everything_in(model, optimizer) == before


def test_rounding_that_a_norm_magnifies_is_no_change():
    torch.manual_seed(0)
    layers = [nn.Linear(3, 6), *(nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 6)) for _ in range(8)), nn.Linear(6, 2)]
    model, x = nn.Sequential(*layers), torch.randn(3, 3)
    assert all(widen_(model, axis.name, 3, example=x) for axis in axes(model, x) if axis.growable)


def test_tied_weights_stay_tied():
    case = CASES["tied"]
    model = case.model()
    widen_(model, "a", 2, example=case.example)
    assert model.b.weight is model.c.weight
    assert model.c.weight.shape == (6, 6)


def test_dropout_as_a_function_is_off_in_the_comparison():
    case = CASES["keywords"]
    model = case.model()
    model.p = 0.5
    assert widen_(model, "a", 2, example=case.example).moved <= TOLERANCE


def test_a_batch_of_one_is_compared_in_eval_mode():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    assert widen_(model.train(), "0", 2, example=ROW[:1]).moved <= TOLERANCE
    assert model.training


# edits that change the function

WRONG = {
    "depends on the width": lambda h: h / h.shape[1],
    "becomes NaN": lambda h: h * torch.full((), 4.0 - h.shape[1]).sqrt().add(1),
    "fails": lambda h: h if h.shape[1] == 4 else h[:, :, 0],
}


def wrong(between) -> tuple[Case, list[Axis]]:
    """A network, and the axes that it would have if the function between its layers were another one."""
    right = Chain(nn.Linear(3, 4), F.relu, nn.Linear(4, 2))
    return Case(lambda: Chain(nn.Linear(3, 4), between, nn.Linear(4, 2)), ROW, {}), axes(right, ROW)


@pytest.mark.parametrize("between", WRONG.values(), ids=WRONG)
def test_an_edit_that_changes_the_function_is_taken_back(between):
    case, found = wrong(between)
    model, optimizer = trained(case)
    before = everything_in(model, optimizer)
    with pytest.raises(EditError, match=r"widening first by 2 \(first.weight \[4, 3\] -> \[6, 3\], .*; undone"):
        apply_(model, found, [Widening(found[0], 2)], inputs=ROW, optimizer=optimizer)
    assert everything_in(model, optimizer) == before
    assert model.training


@pytest.mark.parametrize("between", WRONG.values(), ids=WRONG)
def test_what_would_change_the_function_is_not_offered(between):
    case, _ = wrong(between)
    model, optimizer = trained(case)
    before = everything_in(model, optimizer)
    with pytest.raises(GrowthError, match="axis 'first' can't grow: with one more unit"):
        widen_(model, "first", 2, example=ROW, optimizer=optimizer)
    assert everything_in(model, optimizer) == before


def test_a_rule_that_is_wrong_is_found_out(monkeypatch):
    monkeypatch.setitem(RULES, "softmax", join)
    case = Case(lambda: Chain(nn.Linear(3, 4), lambda h: F.softmax(h, 1), nn.Linear(4, 2)), ROW, {})
    model, optimizer = trained(case)
    before = everything_in(model, optimizer)
    with pytest.raises(GrowthError, match="can't grow: with one more unit an output moves by"):
        widen_(model, "first", 2, example=ROW, optimizer=optimizer)
    assert everything_in(model, optimizer) == before


def test_what_cannot_be_widened():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(InputError, match="expected a whole number of at least one unit to add on '0', got 0"):
        widen_(model, "0", 0, example=ROW)
    with pytest.raises(InputError, match="axis '2' can't grow: it is an output of the network"):
        widen_(model, "2", 1, example=ROW)


def test_change():
    inf, nan = float("inf"), float("nan")
    assert change([torch.tensor([1.0, -inf, nan])], [torch.tensor([1.0, -inf, nan])]) == 0.0
    assert change([torch.tensor([2.0, 1.0])], [torch.tensor([2.0, 1.5])]) == 0.25
    assert change([torch.tensor([2.0, 1.0])], [torch.tensor([2.0, nan])]) == inf
    assert change([torch.tensor([2.0, nan])], [torch.tensor([2.0, 1.0])]) == inf
    assert change([torch.tensor([2.0, inf])], [torch.tensor([2.0, -inf])]) == inf
    assert change([torch.zeros(2)], [torch.zeros(3)]) == inf
    assert change([torch.zeros(0)], [torch.zeros(0)]) == 0.0


def test_an_image_network_grows_everywhere_again_and_again():
    case = CASES["resnet"]
    model = case.model()
    before = run(model, case, False)
    found = axes(model, IMAGE)
    for _ in range(3):
        found = apply_(model, found, [Widening(a, 1 + a.size // 2) for a in found if a.growable], inputs=IMAGE).axes
    assert change(before, run(model, case, False)) <= 1e-5
    assert plain(found) == plain(axes(model, IMAGE))
