"""Axes: which channels must grow together, where they sit, and why some can't grow."""

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from net_cases import CASES, IMAGE, ROW, Case, Chain, Concat, Functional, Multiplied, Vgg, noise
from outgrow.errors import GrowthError, InputError
from outgrow.net.axes import Axis, axes, find_axis
from outgrow.net.numbers import Numbers, along, compact, steady
from outgrow.net.rules import RULES
from outgrow.net.widen import widen_


def members(axis: Axis) -> list[object]:
    return [(m.tensor, m.dim, m.index.tolist(), sorted(m.roles)) for m in axis.members]


def by_name(model: nn.Module, example: object) -> dict[str, Axis]:
    return {axis.name: axis for axis in axes(model, example)}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_what_can_grow(case: Case):
    found = axes(case.model(), case.example)
    assert {axis.name: axis.size for axis in found if axis.growable} == case.growable
    assert len({axis.name for axis in found}) == len(found)
    for axis in found:
        assert bool(axis.reason) != axis.growable
        assert all(len(member.index) == axis.size for member in axis.members)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_place_belongs_to_one_axis(case: Case):
    model = case.model()
    tensors = model.state_dict()
    places: dict[tuple[str, int], list[int]] = {}
    for axis in axes(model, case.example):
        for member in axis.members:
            places.setdefault((member.tensor, member.dim), []).extend(member.index.flatten().tolist())
    for (tensor, dim), at in places.items():
        assert sorted(at) == list(range(tensors[tensor].shape[dim]))


def test_concatenation_gives_offsets():
    found = by_name(Concat(), IMAGE)
    for name, start, size in (("c", 0, 3), ("a", 3, 4), ("b", 7, 2)):
        (head,) = [m for m in found[name].members if m.tensor == "head.weight"]
        assert head.index.flatten().tolist() == list(range(start, start + size))
    (norm,) = [m for m in found["b"].members if m.tensor == "norm.running_var"]
    assert norm.index.flatten().tolist() == [7, 8]
    assert {(m.tensor, m.dim) for m in found["a"].consumers} == {("b.weight", 1), ("c.weight", 1), ("head.weight", 1)}


def test_flatten_gives_all_positions_of_a_channel():
    (columns,) = [m for m in by_name(Vgg(), IMAGE)["features.2.0"].members if m.tensor == "classifier.0.weight"]
    assert columns.index.tolist() == [[4 * unit + k for k in range(4)] for unit in range(5)]


def test_a_shared_layer_gives_two_places():
    (head,) = [m for m in by_name(CASES["shared"].model(), noise(4, 2, 3))["side"].members if m.tensor == "head.weight"]
    assert head.index.tolist() == [[unit, 4 + unit] for unit in range(4)]


def test_a_chunk_gives_two_places():
    (rows,) = [m for m in by_name(CASES["glu"].model(), ROW)["chunked"].members if m.tensor == "chunked.bias"]
    assert rows.index.tolist() == [[unit, 4 + unit] for unit in range(4)]


@pytest.mark.parametrize(
    ("case", "axis", "reason"),
    [
        ("mlp", "mlp.hidden.0 (input)", "mul with an input"),
        ("concat", "a (input)", "reads the input"),
        ("mlp", "mlp.head", "output of the network"),
        ("layer norm", "stem", "layer_norm"),
        ("tied language", "embed:2", "vocabulary"),
        ("excite", "gate", "stretches its single channel"),
        ("encoder", "stem", "layer_norm: its mean and variance run over all channels"),
    ],
)
def test_what_is_fixed_says_why(case, axis, reason):
    found = by_name(CASES[case].model(), CASES[case].example)
    assert reason in found[axis].reason
    assert reason in str(found[axis])


# the table, rule by rule: a linear layer or a convolution, an op, a linear layer or a convolution

LINEAR, CONV = (lambda: nn.Linear(3, 4)), (lambda: nn.Conv2d(3, 4, 3, padding=1))
FIXED = torch.ones(4)

GROWS = {
    "relu": (LINEAR, F.relu, nn.Linear(4, 2)),
    "in place": (LINEAR, torch.relu_, nn.Linear(4, 2)),
    "move: view of positions": (CONV, lambda h: h.view(*h.shape[:2], 4, -1).mean((2, 3)), nn.Linear(4, 2)),
    "move: transpose": (CONV, lambda h: h.flatten(2).transpose(1, 2).mean(1), nn.Linear(4, 2)),
    "move: permute": (CONV, lambda h: h.permute(0, 2, 3, 1), nn.Linear(4, 2)),
    "move: stack": (LINEAR, lambda h: torch.stack([h, h], 1).flatten(1), nn.Linear(8, 2)),
    "move: select": (CONV, lambda h: h[:, :, 0, 1], nn.Linear(4, 2)),
    "move: unbind": (CONV, lambda h: h.unbind(3)[2].unbind(2)[1], nn.Linear(4, 2)),
    "part: chunk": (lambda: nn.Linear(3, 8), lambda h: h.chunk(2, 1)[1], nn.Linear(4, 2)),
    "part: split": (lambda: nn.Linear(3, 8), lambda h: h.split(h.shape[1] // 2, 1)[0], nn.Linear(4, 2)),
    "part: positions": (CONV, lambda h: h.chunk(2, 3)[0], nn.Conv2d(4, 2, 1)),
    "turn: positions": (CONV, lambda h: h.flip(3).roll((1, 2), (2, 3)), nn.Conv2d(4, 2, 1)),
    "join: scalars": (LINEAR, lambda h: 1 - 2 * h, nn.Linear(4, 2)),
    "join: itself": (LINEAR, lambda h: h * h.sigmoid() + h, nn.Linear(4, 2)),
    "join: positions of an input": (CONV, lambda h: h + torch.ones(1, 1, 8, 8), nn.Conv2d(4, 2, 1)),
    "mix: linear on positions": (lambda: nn.Conv1d(3, 4, 1), lambda h: h.mT, nn.Linear(4, 2)),
    "mix: convolution": (CONV, F.silu, nn.Conv2d(4, 2, 3)),
    "norm": (CONV, nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3)),
    "norm without gains": (LINEAR, nn.BatchNorm1d(4, affine=False), nn.Linear(4, 2)),
    "norm without statistics": (LINEAR, nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 2)),
    "prelu: one slope": (CONV, nn.PReLU(), nn.Conv2d(4, 2, 3)),
    "prelu: slopes": (CONV, nn.PReLU(4), nn.Conv2d(4, 2, 3)),
    "gate": (lambda: nn.Linear(3, 8), F.glu, nn.Linear(4, 2)),
    "pool: max": (CONV, lambda h: F.max_pool2d(h, 2), nn.Conv2d(4, 2, 3)),
    "pool: average": (CONV, lambda h: F.avg_pool2d(h, 3, 1, 1), nn.Conv2d(4, 2, 3)),
    "pool: adaptive": (CONV, lambda h: F.adaptive_avg_pool2d(h, 2).flatten(1), nn.Linear(16, 2)),
    "pool: adaptive max": (CONV, lambda h: F.adaptive_max_pool2d(h, 1).flatten(1), nn.Linear(4, 2)),
    "pool: upsampling": (CONV, lambda h: F.interpolate(h, scale_factor=2, mode="bilinear"), nn.Conv2d(4, 2, 3)),
    "pool: padding": (CONV, lambda h: F.pad(h, (1, 2, 0, 1), value=1.0), nn.Conv2d(4, 2, 3)),
    "reduce: mean": (CONV, lambda h: h.mean((2, 3)), nn.Linear(4, 2)),
    "reduce: keepdim": (CONV, lambda h: h.amax((2, 3), keepdim=True).flatten(1), nn.Linear(4, 2)),
    "reduce: sum": (CONV, lambda h: h.sum(3).logsumexp(2), nn.Linear(4, 2)),
    "softmax over positions": (CONV, lambda h: (h.flatten(2) * h.flatten(2).softmax(-1)).sum(-1), nn.Linear(4, 2)),
}

STAYS = {
    "turn: channels": (LINEAR, lambda h: h.flip(1), nn.Linear(4, 2), "flip: it changes the order of channels"),
    "turn: roll": (LINEAR, lambda h: h.roll(1), nn.Linear(4, 2), "roll: it changes the order of channels"),
    "join: an input": (LINEAR, lambda h: h + FIXED, nn.Linear(4, 2), "a constant of as many channels"),
    "join: stretched": (lambda: nn.Linear(3, 1), lambda h: h * FIXED, nn.Linear(4, 2), "a constant of as many"),
    "mix: positions pass channels on": (CONV, lambda h: h.mean(3), nn.Linear(8, 2), "it is an output of the network"),
    "pool: padded channels": (CONV, lambda h: F.pad(h, (0, 0, 0, 0, 1, 1)), nn.Conv2d(6, 2, 1), "number of channels"),
    "reduce: channels": (LINEAR, lambda h: h.mean(1, keepdim=True), nn.Linear(1, 2), "mean: it sums over channels"),
    "reduce: one channel": (
        lambda: nn.Conv2d(3, 1, 1),
        lambda h: h.mean(1).flatten(1),
        nn.Linear(64, 2),
        "mean: it sums over channels",
    ),
    "softmax": (LINEAR, lambda h: h.softmax(1), nn.Linear(4, 2), "softmax: it normalises over channels"),
    "softmax of one channel": (lambda: nn.Linear(3, 1), lambda h: h.softmax(-1), nn.Linear(1, 2), "softmax"),
    "pin: layer norm": (LINEAR, nn.LayerNorm(4), nn.Linear(4, 2), "layer_norm: its mean and variance run over all"),
    "scan: channels": (LINEAR, lambda h: h.cumsum(1), nn.Linear(4, 2), "cumsum: it normalises over channels"),
    "reduce: several results": (
        LINEAR,
        lambda h: h.max(1, keepdim=True)[0],
        nn.Linear(1, 2),
        "max: it reduces over channels",
    ),
    "unknown": (LINEAR, lambda h: h.renorm(2, 0, 1.0), nn.Linear(4, 2), "renorm: outgrow has no rule for it yet"),
    "cut by a constant": (
        LINEAR,
        lambda h: h.reshape(-1, 2, 2).flatten(1),
        nn.Linear(4, 2),
        "cut: reshape (net_cases.py",
    ),
    "a size that the data tells": (
        LINEAR,
        lambda h: h[h > 0].sum().expand(1, 1),
        nn.Linear(1, 2),
        "index: ",
    ),
    "a number that the data tells": (
        LINEAR,
        lambda h: h * h.sum().item(),
        nn.Linear(4, 2),
        "sum: it sums over channels",
    ),
}


@pytest.mark.parametrize("parts", GROWS.values(), ids=GROWS)
def test_rules_that_let_an_axis_grow(parts):
    first, between, last = parts
    model = Chain(first(), between, last)
    found = by_name(
        model, noise(4, 3, 8, 8) if isinstance(model.first, nn.Conv2d) else noise(4, 3, *_length(model.first))
    )
    assert found["first"].growable, found["first"].reason
    assert found["first"].size == 4
    assert found["first"].consumers[0].tensor == "last.weight"


def _length(first: nn.Module) -> tuple[int, ...]:
    return (6,) if isinstance(first, nn.Conv1d) else ()


@pytest.mark.parametrize("parts", STAYS.values(), ids=STAYS)
def test_rules_that_keep_an_axis(parts):
    first, between, last, reason = parts
    model = Chain(first(), between, last)
    example = noise(4, 3, 8, 8) if isinstance(model.first, nn.Conv2d) else ROW
    found = by_name(model, example)
    assert reason in found["first"].reason
    assert not any("first.weight" in str(m) for a in found.values() if a.growable for m in a.members)


def test_embedding_hands_out_the_length_of_its_rows():
    found = by_name(Chain(nn.Embedding(10, 4), F.relu, nn.Linear(4, 2)), torch.zeros(4, 6, dtype=torch.long))
    assert found["first"].growable
    assert [(m.tensor, m.dim) for m in found["first"].members] == [("first.weight", 1), ("last.weight", 1)]


def test_depthwise_filters_belong_to_the_channels():
    axis = by_name(CASES["inverted"].model(), IMAGE)["up"]
    roles = {(m.tensor, m.dim): m.roles for m in axis.members}
    assert roles["depthwise.weight", 0] == roles["depthwise.bias", 0] == roles["slope.weight", 0] == {"channel"}


def test_a_plain_residual_has_both_dimensions_on_the_stream():
    axis = by_name(CASES["excite"].model(), IMAGE)["stem.0"]
    roles = {m.dim: m.roles for m in axis.members if m.tensor == "plain.weight"}
    assert roles == {0: {"out"}, 1: {"in"}}


def test_without_a_dimension_of_examples():
    found = by_name(Chain(nn.Conv2d(3, 8, 3, padding=1), F.relu, nn.Conv2d(8, 2, 1)), noise(3, 8, 8))
    assert found["first"].growable


def test_a_parameter_that_is_handed_back_is_an_output():
    class Shows(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.b(self.a(x)), self.a.bias

    assert by_name(Shows(), ROW)["a"].reason == "it is an output of the network"


def test_the_walk_names_what_it_froze():
    model = Chain(nn.Linear(3, 4), lambda h: h.renorm(2, 0, 1.0), nn.Linear(4, 2))
    assert re.search(
        r"^renorm: outgrow has no rule for it yet \(net_cases.py:\d+\)$", by_name(model, ROW)["first"].reason
    )


def test_a_rule_that_fails_freezes(monkeypatch):
    def breaks(site, bound, shape):
        raise AssertionError("not foreseen\nat all")

    monkeypatch.setitem(RULES, "relu", breaks)
    axis = by_name(Chain(nn.Linear(3, 4), F.relu, nn.Linear(4, 2)), ROW)["first"]
    assert axis.reason.startswith("relu: its rule failed: not foreseen (")


def test_a_rule_of_the_wrong_shape_freezes(monkeypatch):
    monkeypatch.setitem(RULES, "relu", lambda site, bound, shape: torch.zeros(7, dtype=torch.long))
    axis = by_name(Chain(nn.Linear(3, 4), F.relu, nn.Linear(4, 2)), ROW)["first"]
    assert axis.reason.startswith("relu: its rule gives [7] in place of [4, 4] (")


def test_the_table_names_real_ops():
    for op in RULES:
        assert hasattr(torch.ops.aten, op), op


def test_a_trace_changes_nothing():
    model = CASES["convnet"].model().train()
    model[1].blocks[0].norm.eval()  # a frozen norm, as people have it when they fine-tune
    before = {name: (id(t), t.clone()) for name, t in model.state_dict(keep_vars=True).items()}
    modes = [module.training for module in model.modules()]
    axes(model, IMAGE)
    after = model.state_dict(keep_vars=True)
    assert all(id(after[name]) == key and torch.equal(after[name], value) for name, (key, value) in before.items())
    assert modes == [module.training for module in model.modules()]


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 3)

    def forward(self, x):
        return self.a(x) if x.sum() > 0 else x


@pytest.mark.parametrize("example", [noise(4, 5), (ROW, ROW), {"y": ROW}], ids=["shape", "too many", "keyword"])
def test_what_does_not_run_is_one_line(example, capfd):
    with pytest.raises(GrowthError, match=r"^Linear does not run on this example: .*; give the example as") as caught:
        axes(nn.Linear(3, 2), example)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_branches_that_depend_on_the_data_are_those_of_the_example():
    with pytest.warns(UserWarning, match=r"this example did not use 0.a.weight, 0.a.bias") as told:
        found = by_name(nn.Sequential(Branches(), nn.Linear(3, 3), nn.Linear(3, 2)), ROW)
    assert told[0].filename == __file__
    assert found["1"].growable


def test_scripted_and_wrapped_models_are_refused():
    with pytest.warns(DeprecationWarning, match="torch.jit.trace"):
        scripted = torch.jit.trace(nn.Linear(3, 2), ROW)
    with pytest.raises(GrowthError, match="got a scripted one"):
        axes(scripted, ROW)
    with pytest.raises(GrowthError, match=r"pass model.module"):
        axes(nn.DataParallel(nn.Linear(3, 2)), ROW)


def test_finding_an_axis():
    found = axes(CASES["glu"].model(), ROW)
    assert find_axis(found, "ready").name == "ready"
    with pytest.raises(InputError, match="what can grow here: chunked, ready"):
        find_axis(found, "nothing")
    with pytest.raises(InputError, match="axis 'head' can't grow: it is an output"):
        find_axis(found, "head")


def test_a_module_that_hands_out_several_axes():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(3, 6), nn.Linear(2, 2), nn.Linear(4, 2)
            self.two, self.four = 2, 4

        def forward(self, x):
            b, c = self.a(x).split([self.two, self.four], 1)
            return self.b(b), self.c(c)

    found = axes(Two(), ROW)
    assert find_axis(found, "a").size == 2
    twice = [axis for axis in found if axis.growable]
    with pytest.raises(InputError, match="is part of several axes: choose one of x, y"):
        find_axis([_renamed(twice[0], "x"), _renamed(twice[1], "y")], "a")


def _renamed(axis: Axis, name: str) -> Axis:
    return Axis(name, axis.size, axis.members, axis.growable, axis.reason)


def test_tuples_and_dicts_call_alike():
    left, right = CASES["tuple"].example, CASES["keywords"].example
    assert [members(a) for a in axes(Functional(), left)] == [members(a) for a in axes(Functional(), right)]


def test_numbers():
    numbers = Numbers()
    a, b, c = numbers.new(3), numbers.new(3), numbers.new(1)
    numbers.join(a, b, "met nothing")
    numbers.join(b, torch.zeros(3, dtype=torch.long), "met nothing")
    assert [numbers.root(int(i)) == numbers.root(int(j)) for i in a for j in b] == torch.eye(
        3
    ).bool().flatten().tolist()
    assert set(numbers.reasons()) == {numbers.root(int(i)) for i in a}
    numbers.pin(c, "first")
    numbers.pin(c, "second")
    assert numbers.reasons()[int(c)] == "first"
    wide = a.view(1, 3, 1).expand(1000, 3, 1000)
    assert compact(wide)[0].shape == (1, 3, 1)
    assert steady(wide, 0)
    assert not steady(wide, 1)
    assert torch.equal(along(wide, 1), a)
    assert along(wide, 0) is None


def test_large_images_stay_quick():
    model = Chain(nn.Conv2d(3, 4, 3, padding=1), lambda h: F.max_pool2d(h.relu(), 2), nn.Conv2d(4, 2, 3))
    assert by_name(model, torch.zeros(2, 3, 512, 512))["first"].growable


def test_a_multiplied_depthwise_convolution_keeps_its_groups():
    model = Multiplied()
    axes(model, IMAGE)
    assert (model.many.groups, model.many.out_channels) == (4, 8)


def test_other_precisions():
    assert by_name(Vgg().bfloat16(), IMAGE.bfloat16())["features.0.0"].growable


class Shy(nn.Module):
    """Its norm is left out for a single example."""

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Linear(6, 2)

    def forward(self, x):
        x = self.a(x)
        return self.b(self.norm(x) if len(x) > 1 else x)


def test_what_the_example_does_not_use_is_told():
    with pytest.warns(UserWarning, match="Shy: this example did not use norm.weight, norm.bias; what reads a grown"):
        axes(Shy(), ROW[:1])
    assert "norm.weight" in [member.tensor for member in by_name(Shy(), noise(4, 3))["a"].members]


class Moved(nn.Module):
    """A convolution whose channels come last, flat; with zeros its output is zero."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 1, 3, padding=1, bias=False), nn.Linear(16, 5)

    def forward(self, x):
        return self.head(self.conv(x).permute(0, 2, 3, 1).flatten(1))


def test_zeros_tell_as_much_as_noise():
    model = Moved()
    real = noise(2, 1, 4, 4)
    before = model(real)
    assert widen_(model, "conv", 4, example=torch.zeros(1, 1, 4, 4)).moved <= 1e-5
    torch.testing.assert_close(model(real), before)
