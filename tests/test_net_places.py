"""Blocks go in without a change of the function, learn, and come out as if they had never been."""

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

from net_cases import noise
from outgrow.errors import GrowthError
from outgrow.net.deepen import deepen_
from outgrow.net.edit import Edit
from outgrow.net.place import Place
from outgrow.net.places import places
from outgrow.net.preserve import change
from place_cases import CASES, IMAGE, ROW, WORDS, Case, ConvNeXtBlock, step
from place_cases_hf import HF
from place_snapshot import everything_in, run

ALL = CASES | HF
WITH_PLACES = {name: case for name, case in ALL.items() if case.residual or case.chain}
every_case = pytest.mark.parametrize("case", WITH_PLACES.values(), ids=WITH_PLACES)


@pytest.mark.parametrize("case", ALL.values(), ids=ALL)
def test_every_place_is_found(case: Case):
    model = case.model()
    found = places(model, case.inputs())
    residual = {p.name: p.what for p in found if p.growable and p.kind == "residual"}
    assert residual == {
        name: f"a copy of it ({type(model.get_submodule(name)).__name__}), {zeros} at zero"
        for name, zeros in case.residual.items()
    }
    assert {p.name: p.what for p in found if p.growable and p.kind == "chain"} == case.chain
    refused = {p.name: p.reason for p in found if not p.growable}
    assert refused.keys() == case.none.keys()
    for name, reason in case.none.items():
        with pytest.raises(GrowthError, match=reason):
            deepen_(model, name, example=case.inputs())


@every_case
def test_looking_for_places_changes_nothing(case: Case):
    model = case.model().train()
    next(model.modules()).eval()  # modes that differ
    before, random = everything_in(model), torch.get_rng_state()
    places(model, case.inputs())
    assert everything_in(model) == before
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in model.parameters())


@every_case
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=["f64", "f32"])
def test_the_function_is_kept_at_every_place_and_undo_is_as_if_nothing_had_been(case: Case, dtype, tolerance):
    model, inputs = case.model(dtype), case.inputs(dtype)
    before = everything_in(model)
    out = {training: run(model, inputs, training) for training in [False] + [True] * (not case.random)}
    for name in [*case.residual, *case.chain][:: 1 if len(case.chain) < 6 else 3]:
        edit = deepen_(model, name, example=inputs, init="copy" if dtype == torch.float32 else "fresh")
        assert edit.moved <= tolerance
        assert not edit.axes
        assert not edit.changes
        assert everything_in(model) != before
        assert {p.dtype for p in model.parameters()} == {dtype}
        for training, values in out.items():
            assert change(values, run(model, inputs, training)) <= tolerance, (name, training)
        edit.undo()
        edit.undo()  # once more does nothing
        assert everything_in(model) == before


@every_case
def test_every_new_parameter_learns(case: Case):
    for name in [*case.residual][-1:] + [*case.chain][-1:]:
        model = case.model(torch.float64).train()
        inputs = pytree.tree_map(
            lambda t: noise(*t.shape).to(t) if t.is_floating_point() else t, case.inputs(torch.float64)
        )
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        edit = deepen_(model, name, example=inputs, optimizer=optimizer)
        new = dict(nn.ModuleList(edit.insertions[0].modules).named_parameters())
        assert new.keys() == edit.insertions[0].like.keys()
        start = {key: parameter.detach().clone() for key, parameter in new.items()}
        step(model, inputs, optimizer, 2)  # the zero side first, then what is before it
        still = [key for key, p in new.items() if torch.equal(p, start[key])]
        assert not [key for key in still if not any(part in key for part in case.still)], name


@every_case
def test_deepening_again(case: Case):
    model, inputs = case.model(), case.inputs()
    out = run(model, inputs, False)
    name = [*case.residual, *case.chain][-1]
    edits = [deepen_(model, name, example=inputs) for _ in range(2)]
    found = [place for place in places(model, inputs) if place.growable]
    assert len(found) >= len(case.residual) + len(case.chain)
    assert change(out, run(model, inputs, False)) <= 1e-5
    for edit in reversed(edits):
        edit.undo()
    assert [repr(p) for p in places(model, inputs)] == [repr(p) for p in places(case.model(), inputs)]


# where no block can go


class Heads(nn.Module):
    """Blocks side by side."""

    def __init__(self):
        super().__init__()
        self.heads = nn.ModuleList(ConvNeXtBlock(3) for _ in range(2))

    def forward(self, x):
        return torch.cat([head(x) for head in self.heads], 1)


class Looped(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([ConvNeXtBlock(3)])

    def forward(self, x):
        return self.blocks[0](self.blocks[0](x))


class Named(Looped):
    def forward(self, x):
        return self.blocks[0](x)


class Idle(nn.Module):
    """Its branch adds nothing, or nothing that has a gradient."""

    def __init__(self, top: float):
        super().__init__()
        self.a, self.top = nn.Linear(3, 3), top

    def forward(self, x):
        return x + self.a(x).detach().clamp(min=0.0, max=self.top)


NOWHERE = {
    "side by side": (Heads, "heads", "with a block there"),
    "called twice": (Looped, "blocks", "is called 2 times in a forward pass, expected once"),
    "called by name": (Named, "blocks", "a block there is called 0 times in a forward pass, expected once"),
    "adding nothing": (lambda: nn.Sequential(Idle(0.0), Idle(0.0)), "", "hands its input on already"),
    "without a gradient": (lambda: nn.Sequential(Idle(9.0), Idle(9.0)), "", "no gradient reaches a copy"),
}


@pytest.mark.parametrize(("build", "name", "reason"), NOWHERE.values(), ids=NOWHERE)
def test_a_container_without_a_place_says_why(build, name, reason):
    model = build()
    example = noise(2, 3, 4, 3) if name == "" else IMAGE
    before = everything_in(model)
    assert [p.reason for p in places(model, example) if p.name == name and p.kind == "residual"] != []
    with pytest.raises(GrowthError, match=reason):
        deepen_(model, name, example=example)
    assert everything_in(model) == before


def test_an_output_keeps_its_range():
    model = nn.Sequential(nn.Linear(3, 4), nn.Sigmoid())
    assert places(model, ROW) == []


def test_bad_input_is_refused_and_the_model_stays():
    model = CASES["basic"].model()
    before = everything_in(model)
    known = "one can go behind: layer1.0, layer1.1, layer3.1"
    for name, why in (
        ("layer9", "the model has no module of this name"),
        ("layer2.0", "layer2.0 is no block that keeps"),
    ):
        with pytest.raises(GrowthError, match=f"no block can go behind '{name}': {why}.*; {known}"):
            deepen_(model, name, example=IMAGE)
    with pytest.raises(GrowthError, match="Images does not run on this example: "):
        deepen_(model, "layer1.0", example=ROW)
    with pytest.raises(GrowthError, match="expected init to be one of copy, fresh, got 'random'"):
        deepen_(model, "layer1.0", example=IMAGE, init="random")
    with pytest.raises(GrowthError, match="expected an optimizer of this model"):
        deepen_(model, "layer1.0", example=IMAGE, optimizer=torch.optim.SGD(nn.Linear(2, 2).parameters()))
    assert everything_in(model) == before


def test_a_scripted_or_compiled_model_is_refused():
    scripted = torch.jit.script(nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3)))
    with pytest.raises(GrowthError, match="got a scripted one; pass what was scripted"):
        places(scripted, ROW)
    with pytest.raises(GrowthError, match="got a compiled one; pass what was compiled"):
        places(torch.compile(nn.Linear(3, 3), backend="eager"), ROW)


def test_a_place_can_be_given_and_says_what_it_is():
    model = CASES["basic"].model()
    last = places(model, IMAGE)[-1]
    assert repr(last) == "layer3.1 (residual): a copy of it (Basic), bn2.weight, bn2.bias at zero"
    assert isinstance(last, Place)
    deepen_(model, last, example=IMAGE)
    assert len(model.layer3) == 3
    refused = places(CASES["post-norm"].model(), WORDS)[0]
    assert repr(refused).startswith("0.layers (none: its shortcut leads through norm2")
    assert isinstance(deepen_(model, "layer1", example=IMAGE), Edit)
    assert len(model.layer1) == 3


def test_padding_does_not_stop_an_encoder():
    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            self.words = nn.Embedding(9, 8)
            self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 12, batch_first=True), 1)

        def forward(self, x):
            return self.encoder(self.words(x), src_key_padding_mask=x == 0)

    (place,) = places(Padded(), torch.tensor([[1, 2, 3, 0, 0], [4, 5, 6, 7, 0]]))
    assert place.reason.startswith("its shortcut leads through norm2")


def test_blocks_that_would_never_learn_have_no_place():
    class Extractor(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = CASES["basic"].model(), nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2))

        def forward(self, x):
            with torch.no_grad():
                x = self.body(x)
            return self.head(x)

    outputs = CASES["basic"].model()(IMAGE).shape[1]
    model = Extractor()
    model.head[0] = nn.Linear(outputs, 4)
    found = places(model, IMAGE)
    assert [place.name for place in found if place.growable] == ["head.1"]
    assert {place.reason for place in found if not place.growable} == {
        f"{name} runs under no_grad(), where a copy of it would never learn"
        for name in ("body.layer1.1", "body.layer3.1")
    }
    with pytest.raises(GrowthError, match=r"behind 'body.layer1.0': it runs under no_grad"):
        deepen_(model, "body.layer1.0", example=IMAGE)
    assert all(parameter.requires_grad for parameter in model.parameters())
