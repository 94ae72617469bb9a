"""A block that goes in has the right weights, its own place among the children, and a number where one is kept."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from net_cases import noise
from outgrow.errors import EditError, GrowthError
from outgrow.models.residual import Residual
from outgrow.net.axes import axes
from outgrow.net.calls import observe
from outgrow.net.deepen import deepen_, insert_block_, late_first, prepared
from outgrow.net.edit import Insertion
from outgrow.net.places import places
from outgrow.net.preserve import change
from outgrow.net.surgery import insert_
from place_cases import ATTENTION, CASES, IMAGE, ROW, WORDS, ConvNeXtBlock, Counted, Custom, conv_norm_chain
from place_snapshot import everything_in, run

# what has to be set beside a block


class Scanned(Counted):
    """Blocks that are taken up to a count, beside other attributes of the same value."""

    def forward(self, x):
        for block in self.blocks[: self.how_many]:
            x, _ = block(x, 2.0, 1.0)
        return x * self.width


@pytest.mark.parametrize("build", [Counted, Scanned])
def test_a_count_is_raised_and_numbers_follow(build):
    model = build()
    edit = deepen_(model, "blocks.0", example=ROW)
    assert (model.how_many, model.width, len(model.blocks)) == (4, 3, 4)
    assert [block.index for block in model.blocks] == [0, 1, 2, 3]
    assert model.blocks[0].inner.in_features == 3
    assert ("", "how_many", 4) in [(s.module, s.attribute, s.value) for s in edit.settings]
    edit.undo()
    assert (model.how_many, model.width, len(model.blocks)) == (3, 3, 3)
    assert [block.index for block in model.blocks] == [0, 1, 2]


# weights of the copy


def test_a_copy_has_the_blocks_weights_and_a_fresh_one_others():
    case = CASES["pre-norm"]
    for init, same in (("copy", True), ("fresh", False)):
        model = case.model()
        deepen_(model, "0.layers.1", example=WORDS, init=init)
        old, new = (dict(model[0].layers[i].named_parameters()) for i in (1, 2))
        for key, parameter in new.items():
            if key in ATTENTION.split(", "):
                assert not parameter.any()
            else:
                assert torch.equal(parameter, old[key]) == same, key
        assert new["norm1.weight"].unique().tolist() == [1.0] or same


def test_the_same_generator_gives_the_same_weights_and_leaves_the_random_state():
    twins = [CASES["pre-norm"].model() for _ in range(2)]
    for model in twins:
        torch.manual_seed(len(twins))
        before = torch.get_rng_state()
        deepen_(model, "0.layers", example=WORDS, init="fresh", generator=torch.Generator().manual_seed(7))
        assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(*(m.state_dict().values() for m in twins), strict=True))


def test_small_weights_are_not_mistaken_for_zeros():
    model = nn.Sequential(*(ConvNeXtBlock(3) for _ in range(2)))  # layer scale 1e-6, beyond the rounding of float32
    assert [p.name for p in places(model, IMAGE) if p.kind == "residual"] == ["0", "1"]
    deepen_(model, "1", example=IMAGE)
    assert not model[2].gamma.any()
    assert model[2].down.weight.all()


# the shape of the model


def test_inserted_children_keep_names_and_order():
    model = conv_norm_chain()
    deepen_(model, "relu", example=IMAGE)
    assert [*model._modules] == ["conv", "norm", "relu", "relu_1", "relu_2", "pool", "flat", "fc"]
    assert isinstance(model.relu_1, Residual)
    deepen_(model, "relu", example=IMAGE)
    assert len({*model._modules}) == 10
    assert [*model._modules][2] == "relu"
    deepen_(model, "fc.1", example=IMAGE)
    assert [type(m).__name__ for m in model.fc] == ["Linear", "Tanh", "Residual", "Rational", "BatchNorm1d", "Linear"]
    assert [*model.fc._modules] == [str(i) for i in range(6)]


def test_an_attribute_becomes_a_chain_and_comes_back():
    model = Custom()
    act = model.act
    edit = deepen_(model, "act", example=ROW)
    assert [type(m).__name__ for m in model.act] == ["ReLU", "Linear", "ReLU"]
    assert model.act[0] is act
    edit.undo()
    assert model.act is act


@pytest.mark.parametrize("insertion", [Insertion("", "2", (nn.ReLU(),)), Insertion("4", "0", (nn.ReLU(),))])
def test_there_is_something_to_insert_behind(insertion):
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    with pytest.raises(
        GrowthError, match=r"no child '2' to insert behind; its children: 0, 1|a module '4' to insert into"
    ):
        insert_(model, insertion)
    assert len(model) == 2


def test_inserted_modules_are_like_the_child():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU()).double().eval()
    put_back = insert_(model, Insertion("", "1", (nn.Linear(4, 4), nn.ReLU())))
    assert model[2].weight.dtype == torch.float64
    assert not any(module.training for module in model.modules())
    put_back()
    assert [*model._modules] == ["0", "1"]


def test_axes_are_found_in_a_deepened_network():
    for name, place, axis in (("mlp", "1", "2"), ("seed", "resnet.stages.0", "resnet.stages.0.1.conv1")):
        case = CASES[name]
        model = case.model()
        deepen_(model, place, example=case.example)
        assert axis in [a.name for a in axes(model, case.example) if a.growable]


def test_a_deepened_network_can_be_copied():
    for name, case in CASES.items():
        if case.residual or case.chain:
            model = case.model()
            deepen_(model, [*case.residual, *case.chain][0], example=case.example)
            twin_of = copy.deepcopy(model)
            assert change(run(model, case.inputs(), False), run(twin_of, case.inputs(), False)) == 0.0, name


# what a new block must not move


class SometimesLeftOut(ConvNeXtBlock):
    """With stochastic depth, which is no function of torch's own."""

    def forward(self, x):
        kept = torch.rand(len(x), 1, 1, 1) < 0.5 if self.training else 1.0
        return x + kept * (super().forward(x) - x)


def dropping(block: nn.Module, copies: int = 3) -> nn.Sequential:
    return nn.Sequential(*(copy.deepcopy(block) for _ in range(copies)))


@pytest.mark.parametrize(
    ("block", "example"),
    [
        (nn.TransformerEncoderLayer(6, 2, 8, 0.5, batch_first=True, norm_first=True), WORDS),
        (SometimesLeftOut(3), noise(8, 3, 4, 4)),
    ],
    ids=["dropout", "stochastic depth"],
)
def test_random_numbers_behind_a_new_block_are_what_they_were(block, example):
    assert deepen_(dropping(block), "0", example=example).moved == 0.0


def test_an_edit_that_moves_an_output_is_taken_back():
    class Peeking(nn.Sequential):
        """Reads how many children it has, in train mode only."""

        def forward(self, x):
            return super().forward(x) * (len(self) if self.training else 1)

    model = Peeking(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    before = everything_in(model)
    with pytest.raises(EditError, match=r"a block behind 1.*moved by"):
        deepen_(model, "1", example=ROW)
    assert everything_in(model) == before


# blocks that were prepared


@pytest.mark.parametrize(("name", "place"), [("pre-norm", "0.layers.0"), ("seed", "resnet.stem.2"), ("mlp", "4")])
def test_a_prepared_block_goes_in_as_it_is_and_is_trained(name, place):
    case = CASES[name]
    model, other = case.model(), case.model()
    (found,) = (one for one in places(model, case.example) if one.name == place)
    insertion = prepared(model, found, generator=torch.Generator().manual_seed(3))
    before = everything_in(model)
    deepen_(other, place, example=case.example, generator=torch.Generator().manual_seed(3))
    assert everything_in(model) == before
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    edit = insert_block_(model, insertion, example=case.example, optimizer=optimizer)
    assert set(insertion.modules) <= set(model.modules())
    assert all(torch.equal(a, b) for a, b in zip(*(m.state_dict().values() for m in (model, other)), strict=True))
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in model.parameters()]
    edit.undo()
    assert everything_in(model) == before


def test_a_prepared_block_whose_place_is_gone_stays_out():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    (place,) = places(model, ROW)
    insertion = prepared(model, place)
    model[1] = nn.Identity()
    with pytest.raises(GrowthError, match="no block can go behind '1'"):
        insert_block_(model, insertion, example=ROW)
    nowhere = replace(place, recipe=None, growable=False, reason="it is full")
    with pytest.raises(GrowthError, match="no block can go behind '1': it is full"):
        prepared(model, nowhere)


def test_places_are_taken_from_the_last_so_that_names_stay():
    model = CASES["mlp"].model()
    found = places(model, ROW)
    assert [place.name for place in late_first(model, found)] == ["4", "1"]
    for place in late_first(model, found):
        deepen_(model, place.name, example=ROW)
    kinds = [type(module).__name__ for module in model]
    assert kinds == ["Linear", "ReLU", "Linear", "ReLU", "Linear", "Dropout", "ReLU", "Linear", "ReLU", "Linear"]


@pytest.mark.parametrize("build", [Counted, Scanned])
def test_a_silent_block_is_still_called_when_another_one_comes_in(build):
    model = build()
    for size, place in ((4, "blocks.2"), (5, "blocks.0"), (6, "blocks.1")):
        deepen_(model, place, example=ROW)
        counts = observe(model, ROW, set(model.blocks)).counts
        assert (model.how_many, [counts[block] for block in model.blocks]) == (size, [1] * size)


def test_a_layer_that_torch_computes_without_its_children_takes_no_block():
    """In eval mode torch's fused encoder layer never calls the activation; hooks keep it from that kernel."""
    encoder = nn.TransformerEncoderLayer(4, 2, 6, activation=nn.ReLU(), batch_first=True)
    model = nn.Sequential(nn.Linear(4, 4), encoder, nn.Linear(4, 3))
    assert "1.activation" not in [place.name for place in places(model, noise(2, 5, 4)) if place.recipe]


def test_an_earlier_insertion_is_undone_after_later_ones():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    optimizer = torch.optim.Adam(model.parameters())
    before = everything_in(model)
    first = deepen_(model, "1", example=noise(2, 3), optimizer=optimizer)
    second = deepen_(model, "3", example=noise(2, 3), optimizer=optimizer)
    with pytest.raises(GrowthError, match="a later edit has changed the same modules; undo that one first"):
        first.undo()
    assert len(model) == 9
    second.undo()
    first.undo()
    assert everything_in(model) == before


def test_a_frozen_block_is_no_place():
    model = nn.Sequential(nn.Linear(3, 4), nn.Sequential(Residual(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))))
    assert [place.recipe is not None for place in places(model, noise(2, 3))] == [True]
    model[1].requires_grad_(False)
    (place,) = places(model, noise(2, 3))
    assert place.recipe is None
    assert "does not require gradients" in place.reason
