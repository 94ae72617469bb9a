"""Copies that divide their parents' outgoing weights, and twins that cancel: the function is kept, both sides learn."""

import copy
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils import _pytree as pytree

import outgrow
from net_cases import CASES, IMAGE, ROW, Case, Chain, block, noise, tokens
from optimizer_cases import AGEING, AGELESS, SCHEDULED, births_in, steps
from outgrow.errors import EditError, GrowthError, InputError
from outgrow.grow.objective import OutputLoss
from outgrow.grow.proposals import PASSES, UNJUDGED, propose_all
from outgrow.grow.sample import Batch
from outgrow.grow.trial import Trial
from outgrow.net.axes import axes, find_axis
from outgrow.net.axis import Axis
from outgrow.net.edit import Change, Division
from outgrow.net.enlargement import widen
from outgrow.net.inits import Init, divided, fresh, twins
from outgrow.net.inputs import Example
from outgrow.net.newborns import BIRTHS
from outgrow.net.preserve import change, outputs
from outgrow.net.surgery import tensors_of
from outgrow.net.widen import apply_, widen_
from outgrow.net.widening import Copies, Widening, undivided


class Grouped(nn.Module):
    """Whole groups of a convolution and of a norm."""

    def __init__(self):
        super().__init__()
        self.a, self.grouped, self.norm = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 12, 3, groups=4), nn.GroupNorm(4, 12)
        self.head = nn.Linear(12, 2)

    def forward(self, x):
        return self.head(F.gelu(self.norm(self.grouped(F.silu(self.a(x))))).mean((2, 3)))


class Heads(nn.Module):
    """Two heads of attention beside each other, on a stream."""

    def __init__(self):
        super().__init__()
        self.qkv, self.out, self.head = nn.Linear(4, 18), nn.Linear(6, 4), nn.Linear(4, 2)

    def forward(self, x):
        q, k, v = (h.view(*x.shape[:2], -1, 3).transpose(1, 2) for h in self.qkv(x).chunk(3, -1))
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.head((x + self.out(y)).mean(1))


class Rms(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.norm, self.head = nn.Linear(3, 4), nn.RMSNorm(4), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.norm(self.stem(x)))


class Pair(nn.Module):
    """Reads one axis along two dimensions of one weight."""

    def __init__(self):
        super().__init__()
        self.both = nn.Bilinear(4, 4, 2)

    def forward(self, pair):
        return self.both(*pair)


MORE = {
    "grouped": Case(Grouped, IMAGE, {"a": 4}),
    "heads": Case(Heads, noise(4, 5, 4), {"qkv": 2}),
    "bilinear": Case(lambda: Chain(nn.Linear(3, 4), lambda h: (h.tanh(), h), Pair()), ROW, {"first": 4}),
}
KNOWN = CASES | MORE
every_case = pytest.mark.parametrize("name", KNOWN)
some_cases = pytest.mark.parametrize("name", ["mlp", "resnet", "concat", "vgg", "recurrent", "grouped", "heads"])
every_way = pytest.mark.parametrize("way", [divided, twins], ids=["net2net", "twins"])
KEPT = 1e-10


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@cache
def found_in(name: str) -> tuple[nn.Module, Example, list[Axis]]:
    """A network and its example in double precision, and its axes; not to be changed."""

    def double(leaf):
        return leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf

    case = KNOWN[name]
    model, inputs = case.model().double(), pytree.tree_map(double, case.example)
    return model, inputs, axes(model, inputs)


def moved(before: nn.Module, after: nn.Module, inputs: Example) -> float:
    return max(change(outputs(before, inputs, mode), outputs(after, inputs, mode)) for mode in (True, False))


def able(found: list[Axis], way: Init) -> list[Axis]:
    """Axes that can have such units: no weight multiplies twins with each other."""
    able = [axis for axis in found if axis.growable and not undivided(axis)]
    return [axis for axis in able if way is divided or len({m.tensor for m in axis.consumers}) == len(axis.consumers)]


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).double()


@cache
def axes_of_mlp() -> list[Axis]:
    return axes(mlp(), ROW.double())


@every_way
@every_case
def test_the_function_is_kept(name: str, way):
    model, inputs, found = found_in(name)
    assert {axis.name for axis in found if axis.growable} == KNOWN[name].growable.keys()
    choices = able(found, way)
    assert choices or name == "bilinear"
    for chosen in [*([axis] for axis in choices if len(choices) > 1), choices]:
        wider = copy.deepcopy(model)
        edit = widen(wider, found, [way(wider, axis, 5, seeded()) for axis in chosen])
        assert moved(model, wider, inputs) <= KEPT, [axis.name for axis in chosen]
    apply_(wider, edit.axes, [way(wider, axis, 3, seeded(1)) for axis in able(edit.axes, way)], inputs=inputs)
    assert moved(model, wider, inputs) <= KEPT


@every_case
def test_all_kinds_of_units_come_in_at_once(name: str):
    model, inputs, found = found_in(name)
    kinds = [divided, twins, fresh]
    for shift in range(3):
        wider = copy.deepcopy(model)
        chosen = [kinds[(i + shift) % 3](wider, axis, 4, seeded()) for i, axis in enumerate(able(found, twins))]
        widen(wider, found, chosen)
        assert moved(model, wider, inputs) <= KEPT


@every_way
@some_cases
def test_undo_puts_the_very_same_tensors_back(name: str, way):
    model, inputs, found = found_in(name)
    model = copy.deepcopy(model)
    averaged, optimizer = AveragedModel(model), torch.optim.AdamW(model.parameters())
    before = [(id(t), t.tolist()) for m in (model, averaged) for t in tensors_of(m).values()]
    widenings = [way(model, axis, 3, seeded()) for axis in able(found, way)]
    edit = apply_(model, found, widenings, inputs=inputs, optimizer=optimizer, averages=[averaged])
    edit.undo()
    assert [(id(t), t.tolist()) for m in (model, averaged) for t in tensors_of(m).values()] == before
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in model.parameters()]


# what comes in


def test_a_copy_takes_a_share_of_its_parent():
    model = mlp()
    rows, bias, columns = model[0].weight.clone(), model[0].bias.clone(), model[2].weight.clone()
    found = axes_of_mlp()
    widening = divided(model, find_axis(found, "0"), 6, seeded())
    apply_(model, found, [widening], inputs=ROW.double())
    parents, shares = widening.copies.parents, widening.copies.shares
    assert torch.equal(model[0].weight[4:], rows[parents])
    assert torch.equal(model[0].bias[4:], bias[parents])
    torch.testing.assert_close(model[2].weight[:, 4:], columns[:, parents] * shares, rtol=1e-12, atol=0)
    torch.testing.assert_close(model[2].weight[:, :4], columns * widening.copies.kept(4), rtol=1e-12, atol=0)


def test_between_two_the_shares_are_a_quarter_to_three_quarters():
    model, found = mlp(), axes_of_mlp()
    shares = [divided(model, find_axis(found, "0"), 1, seeded(i)).copies.shares.item() for i in range(200)]
    assert 0.25 <= min(shares) < 0.3
    assert 0.7 < max(shares) <= 0.75


def test_copies_of_two_layers_read_each_other():
    """New rows times new columns: a share of the parent's weight, as Net2Net has it, and no zero."""
    model = mlp()
    weight = model[2].weight.clone()
    found = axes_of_mlp()
    below, above = (divided(model, find_axis(found, name), 3, seeded()) for name in ("0", "2"))
    apply_(model, found, [below, above], inputs=ROW.double())
    expected = weight[above.copies.parents][:, below.copies.parents] * below.copies.shares
    torch.testing.assert_close(model[2].weight[5:, 4:], expected, rtol=1e-12, atol=0)
    assert all(bool((parameter != 0).all()) for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "axis", "weight"), [("recurrent", "lstm", "lstm.weight_hh_l0"), ("shared", "side", "row.weight")]
)
def test_copies_that_read_each_other_through_their_own_layer(name, axis, weight):
    model, inputs, found = found_in(name)
    wider = copy.deepcopy(model)
    widen(wider, found, [divided(wider, find_axis(found, axis), 4, seeded())])
    assert moved(model, wider, inputs) <= KEPT
    assert bool((wider.get_parameter(weight) != 0).all())


def test_statistics_and_gains_are_copied():
    torch.manual_seed(0)
    model = nn.Sequential(block(3, 4), nn.Flatten(), nn.Linear(4 * 64, 2))
    model[0][1].running_mean.normal_()
    model[0][1].running_var.uniform_(0.5, 2)
    nn.init.normal_(model[0][1].weight)
    found = axes(model, IMAGE)
    widening = divided(model, find_axis(found, "0.0"), 3, seeded())
    apply_(model, found, [widening], inputs=IMAGE)
    for values in (model[0][1].weight, model[0][1].running_mean, model[0][1].running_var):
        assert torch.equal(values[4:], values[widening.copies.parents])


def test_twins_are_equal_and_read_with_opposite_weights():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2))
    widen_(model, "0", 5, example=IMAGE, init="twins", generator=seeded())
    columns = model[4].weight.view(2, 9, 36)[:, 4:].detach()
    for first in (4, 6):
        assert torch.equal(model[0].weight[first], model[0].weight[first + 1])
        assert torch.equal(model[0].bias[first], model[0].bias[first + 1])
        assert torch.equal(columns[:, first - 4], -columns[:, first - 3])
    assert not torch.equal(model[0].weight[4], model[0].weight[6])
    assert not columns[:, 4].any()
    bound = (9 * 36) ** -0.5  # the fan-in after widening
    assert 0.9 * bound < float(columns.abs().max()) <= bound


@pytest.mark.parametrize("init", ["net2net", "twins"])
def test_low_precision_rounds_and_no_more(init):
    model = copy.deepcopy(CASES["mlp"].model()).bfloat16()
    assert widen_(model, "mlp.hidden.1", 6, example=noise(4, 3, 2, 2).bfloat16(), init=init).moved <= 0.02


# training goes on


def square(model: nn.Module) -> Tensor:
    x = noise(64, 3).double()
    return F.mse_loss(model(x), torch.stack([x.prod(1), x.sum(1).cos()], 1))


def trained(model: nn.Module, optimizer: torch.optim.Optimizer, count: int) -> nn.Module:
    for _ in range(count):
        optimizer.zero_grad()
        square(model).backward()
        optimizer.step()
    return model


@every_way
@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.Adam])
def test_equal_units_part_after_a_few_steps(way, make):
    model = mlp()
    optimizer = make(model.parameters(), lr=0.01)
    found = axes_of_mlp()
    widening = way(model, find_axis(found, "0"), 8, seeded())
    apply_(model, found, [widening], inputs=ROW.double(), optimizer=optimizer)
    before = square(model).item()
    trained(model, optimizer, 5)
    rows = model[0].weight.detach()
    assert square(model).item() < before
    assert float(torch.pdist(rows).min()) > 1e-7


@every_way
def test_every_new_weight_has_a_gradient_at_once(way):
    model = mlp()
    found = axes_of_mlp()
    apply_(model, found, [way(model, axis, 4, seeded()) for axis in able(found, way)], inputs=ROW.double())
    square(model).backward()
    assert bool((model[0].weight.grad != 0).all())
    assert bool((model[4].weight.grad != 0).all())


def test_the_gradient_of_outgoing_weights_is_the_parents():
    """And that of incoming ones falls with the share: why moments stay as they are."""
    model = mlp()
    square(model).backward()
    rows, columns = model[0].weight.grad, model[2].weight.grad
    wider = mlp()
    found = axes_of_mlp()
    widening = divided(wider, find_axis(found, "0"), 6, seeded())
    apply_(wider, found, [widening], inputs=ROW.double())
    square(wider).backward()
    origin = torch.cat([torch.arange(4), widening.copies.parents])
    share = torch.cat([widening.copies.kept(4), widening.copies.shares])
    torch.testing.assert_close(wider[2].weight.grad, columns[:, origin])
    torch.testing.assert_close(wider[0].weight.grad, rows[origin] * share[:, None])


OPTIMIZERS = AGEING | AGELESS | SCHEDULED


@every_way
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_optimizers_follow(make, way):
    model = mlp()
    optimizer = make(model.parameters())
    steps(model, optimizer, 0, 3)
    states = [{k: copy.deepcopy(v) for k, v in optimizer.state[p].items()} for p in model.parameters()]
    found = axes_of_mlp()
    widening = way(model, find_axis(found, "0"), 3, seeded())
    edit = apply_(model, found, [widening], inputs=ROW.double(), optimizer=optimizer)
    changes = {id(c.new): c for c in edit.changes}
    for parameter, before in zip(model.parameters(), states, strict=True):
        after = {key: value for key, value in optimizer.state[parameter].items() if key != BIRTHS}
        assert after.keys() == before.keys()
        for key, value in after.items():
            if not isinstance(value, Tensor) or value.ndim == 0 or key == "ax":
                continue
            assert value.shape == parameter.shape
            kept = changes[id(parameter)].keep if id(parameter) in changes else [torch.arange(n) for n in value.shape]
            assert torch.equal(value[torch.meshgrid(*kept, indexing="ij")], before[key]), key
    assert births_in(optimizer) == (3 if make in AGEING.values() else 0)
    steps(model, optimizer, 3, 6)
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())


def test_an_average_within_an_optimizer_is_divided_as_the_weight():
    model = mlp()
    optimizer = torch.optim.ASGD(model.parameters(), lr=0.01, t0=1)
    steps(model, optimizer, 0, 4)
    found = axes_of_mlp()
    before = optimizer.state[model[2].weight]["ax"].clone()
    widening = divided(model, find_axis(found, "0"), 5, seeded())
    apply_(model, found, [widening], inputs=ROW.double(), optimizer=optimizer)
    after, copies = optimizer.state[model[2].weight]["ax"], widening.copies
    summed = after[:, :4].index_add(1, copies.parents, after[:, 4:])
    torch.testing.assert_close(summed, before, rtol=1e-12, atol=0)


@every_way
@every_case
def test_the_function_of_averages_is_kept(name: str, way):
    """Their own columns are divided and their own rows copied: they are not those of the live model."""
    model, inputs, found = found_in(name)
    model = copy.deepcopy(model)
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=seeded(), dtype=parameter.dtype))
    averaged.update_parameters(model)
    averaged.update_parameters(model)
    before = copy.deepcopy(averaged)
    apply_(
        model, found, [way(model, axis, 3, seeded()) for axis in able(found, way)], inputs=inputs, averages=[averaged]
    )
    assert moved(before.module, averaged.module, inputs) <= KEPT
    averaged.update_parameters(model)


# what is refused

REFUSED = {
    "RMS norm": (Rms, ROW, "stem", "an RMS norm divides by the mean square of its channels"),
    "tied": (CASES["tied language"].build, tokens(), "embed", "a tied weight reads it that is used in another way"),
}


@pytest.mark.parametrize("init", ["net2net", "twins"])
@pytest.mark.parametrize(("build", "example", "name", "why"), REFUSED.values(), ids=REFUSED)
def test_an_axis_that_cannot_be_divided_is_refused(build, example, name, why, init):
    model = build()
    shapes = [p.shape for p in model.parameters()]
    with pytest.raises(GrowthError, match=rf"{name}: its new units can be neither copies nor twins: {why}.*use fresh"):
        widen_(model, name, 2, example=example, init=init)
    assert [p.shape for p in model.parameters()] == shapes
    widen_(model, name, 2, example=example)


def test_twins_that_a_weight_multiplies_with_each_other_are_refused():
    model, _, found = found_in("bilinear")
    with pytest.raises(GrowthError, match=r"first: its new units can't be twins: last.both.weight multiplies them"):
        twins(model, found[0], 2)
    assert propose_all("twins", model, {found[0]: 2}, [], OutputLoss(F.mse_loss), seeded())[0].unread


def test_unknown_ways_and_what_does_not_fit():
    model, found = mlp(), axes_of_mlp()
    with pytest.raises(
        GrowthError, match="unknown init 'split': expected one of fresh, copy, net2net, twins, or tensors"
    ):
        widen_(model, "0", 2, example=ROW.double(), init="split")
    with pytest.raises(GrowthError, match="0: expected a parent and a share for each of 3, got 2 parents and 2 shares"):
        Widening(found[0], 3, copies=Copies(torch.tensor([0, 1]), torch.tensor([0.5, 0.5])))
    with pytest.raises(GrowthError, match="0: expected copies or given weights, got both"):
        Widening(found[0], 1, {"0.weight": noise(1, 3)}, copies=Copies(torch.tensor([0]), torch.tensor([0.5])))


@every_way
def test_verification_finds_a_consumer_that_is_not_linear(way):
    """Channel by channel is what the axis promises; a network that mixes channels on the way keeps it for no copy."""
    right = Chain(nn.Linear(3, 4), F.relu, nn.Linear(4, 2))
    wrong = Chain(nn.Linear(3, 4), lambda h: h.relu() / (1 + h.square().sum(1, keepdim=True)), nn.Linear(4, 2))
    found = axes(right, ROW)
    before = {name: id(p) for name, p in wrong.named_parameters()}
    with pytest.raises(EditError, match=r"widening first by 2 .* an output moved by .*; undone"):
        apply_(wrong, found, [way(wrong, found[0], 2, seeded())], inputs=ROW)
    assert {name: id(p) for name, p in wrong.named_parameters()} == before


def test_verification_finds_columns_that_do_not_cancel():
    model = mlp()
    found = axes_of_mlp()
    one = Widening(find_axis(found, "0"), 1, columns={"2.weight": torch.ones(5, 1)})
    with pytest.raises(EditError, match="an output moved by"):
        apply_(model, found, [one], inputs=ROW.double())


def test_parts_of_a_division():
    old = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    division = Division(
        (torch.tensor([0, 1, -1]), torch.tensor([0, 1, 0])), (torch.ones(3), torch.tensor([0.25, 1, 0.75]))
    )
    made = Change("weight", old, torch.zeros(3, 3), (torch.arange(2), torch.arange(2)), division=division)
    assert made.repeat(old, 9.0).tolist() == [[0.25, 2, 0.75], [0.75, 4, 2.25], [9, 9, 9]]
    assert made.carry(old).tolist() == [[1, 2, 0], [3, 4, 0], [0, 0, 0]]


# proposals


@pytest.mark.parametrize("kind", UNJUDGED)
def test_proposals_are_for_policies_that_do_not_judge(kind):
    model, objective = CASES["mlp"].model(), OutputLoss(F.cross_entropy)
    inputs = CASES["mlp"].example
    found = [axis for axis in axes(model, inputs) if axis.growable]
    batches = [Batch(inputs, torch.tensor([0, 1, 2, 0]), 4)]
    widenings = propose_all(kind, model, dict.fromkeys(found, 3), batches, objective, seeded())
    assert [one.units for one in widenings] == [3, 3]
    assert PASSES[kind] == 0
    words = f"{found[0].name}: {kind} units can't be put on trial: their columns are not zero; use them with a policy"
    with pytest.raises(InputError, match=words):
        Trial(model, axes(model, inputs), widenings, batches, objective, seeded())
    apply_(model, axes(model, inputs), widen_again(model, widenings, inputs), inputs=inputs)


def widen_again(model: nn.Module, widenings: list[Widening], inputs: Example) -> list[Widening]:
    """The same widenings on axes that are found anew."""
    found = axes(model, inputs)
    return [
        Widening(find_axis(found, w.axis.name), w.units, w.rows, w.channels, w.columns, w.copies) for w in widenings
    ]


@pytest.mark.parametrize("kind", UNJUDGED)
def test_an_axis_that_cannot_be_divided_gets_fresh_units(kind):
    model, objective = Rms(), OutputLoss(F.cross_entropy)
    found = axes(model, ROW)
    axis = find_axis(found, "stem")
    batches = [Batch(ROW, torch.tensor([0, 1, 1, 0]), 4)]
    (one,) = propose_all(kind, model, {axis: 2}, batches, objective, seeded())
    assert one.unread
    apply_(model, found, [one], inputs=ROW)


def test_a_widening_that_was_drawn_comes_in_as_it_is():
    """Nothing is drawn when copies or twins come in: one generator, one network."""
    found = axes_of_mlp()
    for way in (divided, twins):
        made = way(mlp(), find_axis(found, "0"), 3, seeded())
        models = [mlp(), mlp()]
        for seed, model in enumerate(models):
            widen(model, found, [made], seeded(seed))
        assert all(torch.equal(a, b) for a, b in zip(*(m.parameters() for m in models), strict=True))


def test_the_surface():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    x = noise(4, 3)
    before = model(x)
    for init in ("net2net", "twins"):
        outgrow.widen_(model, "0", 4, example=x, init=init)
        torch.testing.assert_close(model(x), before)
    assert model[2].in_features == 12
