"""Bad input to an edit: one clear error that says what was expected, and a model that stays as it was."""

import pytest
import torch
from torch import nn

import outgrow
from net_cases import ROW, noise
from outgrow.errors import GrowthError


class Blocks(nn.Module):
    """A chain with a residual block, so that every edit has something to do."""

    def __init__(self):
        super().__init__()
        self.first, self.blocks, self.last = nn.Linear(3, 4), nn.Sequential(Residual()), nn.Linear(4, 2)

    def forward(self, x):
        return self.last(self.blocks(self.first(x)))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(4, 5), nn.Linear(5, 4)

    def forward(self, x):
        return x + self.down(self.up(x).relu())


class Fixed(nn.Module):
    """Works for batches of four only."""

    def __init__(self):
        super().__init__()
        self.net = Blocks()

    def forward(self, x):
        return self.net(x.view(4, 3))


class Alike(nn.Module):
    """An output of [examples, examples]."""

    def __init__(self):
        super().__init__()
        self.net = Blocks()

    def forward(self, x):
        x = self.net.blocks(self.net.first(x))
        return x @ x.T


EDITS = {
    "widen": lambda model, **options: outgrow.widen_(model, "blocks.0.up", 2, **options),
    "deepen": lambda model, **options: outgrow.deepen_(model, "blocks", **options),
    "remove": lambda model, **options: outgrow.remove_(model, "blocks.0.up", [1], **options),
}

every_edit = pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)


def everything_in(model: nn.Module) -> object:
    sizes = [(type(m), {k: v for k, v in vars(m).items() if isinstance(v, (int, tuple))}) for m in model.modules()]
    return sizes, [(name, id(t), t.tolist()) for name, t in model.state_dict(keep_vars=True).items()]


def refused(model: nn.Module, words: str, edit, **options) -> None:
    before = everything_in(model) if isinstance(model, nn.Module) else None
    with pytest.raises(GrowthError, match=words) as caught:
        edit(model, **options)
    assert "\n" not in str(caught.value)
    if before is not None:
        assert everything_in(model) == before


@every_edit
def test_good_input_is_taken(edit):
    assert edit(Blocks(), example=ROW).moved is not None


@every_edit
@pytest.mark.parametrize(
    ("example", "words"),
    [
        (noise(4, 7), "mat1 and mat2 shapes cannot be multiplied"),
        ((ROW, ROW), "takes 2 positional arguments|Expected input|given"),
        ({"y": ROW}, "unexpected keyword argument|missing|Expected"),
        ((), "missing"),
    ],
    ids=["shape", "too many", "another name", "nothing"],
)
def test_an_example_that_does_not_fit(edit, example, words):
    refused(Blocks(), f"Blocks does not run on this example: .*({words}).*; give the example as", edit, example=example)


@every_edit
def test_a_batch_that_the_model_can_not_take(edit):
    refused(Fixed(), "Fixed does not run on this example: .*shape", edit, example=noise(5, 3))


@every_edit
def test_scripted_compiled_and_wrapped_models(edit):
    with pytest.warns(DeprecationWarning, match="torch.jit.trace"):
        scripted = torch.jit.trace(Blocks(), ROW)
    with pytest.raises(GrowthError, match="got a scripted one"):
        edit(scripted, example=ROW)
    refused(nn.DataParallel(Blocks()), r"pass model\.module, and wrap it again", edit, example=ROW)
    refused(torch.compile(Blocks(), backend="eager"), "got a compiled one", edit, example=ROW)
    refused(len, "expected a torch.nn.Module, got builtin_function_or_method", edit, example=ROW)


@every_edit
def test_an_optimizer_of_another_model(edit):
    optimizer = torch.optim.AdamW(Blocks().parameters())
    before = [[id(p) for p in group["params"]] for group in optimizer.param_groups]
    refused(Blocks(), "expected an optimizer of this model, got AdamW", edit, example=ROW, optimizer=optimizer)
    assert [[id(p) for p in group["params"]] for group in optimizer.param_groups] == before


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nothing", "no axis is called 'nothing'; what can grow here: first, blocks.0.up"),
        ("last", "axis 'last' can't grow: it is an output of the network"),
    ],
)
@pytest.mark.parametrize(
    "edit",
    [
        lambda m, name: outgrow.widen_(m, name, 1, example=ROW),
        lambda m, name: outgrow.remove_(m, name, [0], example=ROW),
    ],
    ids=["widen", "remove"],
)
def test_a_name_that_no_axis_has(edit, name, words):
    refused(Blocks(), words, lambda model: edit(model, name))


def test_a_name_that_no_place_has():
    refused(Blocks(), "nothing.*blocks", lambda model: outgrow.deepen_(model, "nothing", example=ROW))


@pytest.mark.parametrize("units", [0, -2, 1.5, True, "2"])
def test_units_that_are_no_number_of_units(units):
    refused(
        Blocks(),
        "expected a whole number of at least one unit to add on 'first'",
        lambda model: outgrow.widen_(model, "first", units, example=ROW),
    )


@pytest.mark.parametrize(
    ("init", "words"),
    [
        ("zeros", "unknown init 'zeros': expected one of fresh, copy, net2net, twins, or tensors by name"),
        ({"last.weight": torch.zeros(2, 3)}, "init for 'last.weight', which does not hand out axis blocks.0.up"),
        ({"blocks.0.up.weight": torch.zeros(2, 3)}, r"expected shape \[2, 4\] for 2 units, got \[2, 3\]"),
    ],
)
def test_weights_that_do_not_fit(init, words):
    refused(Blocks(), words, lambda model: outgrow.widen_(model, "blocks.0.up", 2, example=ROW, init=init))


def test_an_output_that_depends_on_the_batch_is_left_alone():
    model = Alike()
    assert not [axis.name for axis in outgrow.axes(model, ROW) if axis.growable and axis.name == "net.first"]
    assert outgrow.widen_(model, "net.blocks.0.up", 2, example=ROW).moved <= 1e-5


def test_rows_that_are_given_come_in():
    model, rows = Blocks(), noise(2, 4)
    outgrow.widen_(model, "blocks.0.up", 2, example=ROW, init={"blocks.0.up.weight": rows})
    assert torch.equal(model.blocks[0].up.weight[5:], rows)


def test_copied_units_are_those_that_are_there():
    model = Blocks()
    outgrow.widen_(model, "blocks.0.up", 7, example=ROW, init="copy")
    up = torch.cat([model.blocks[0].up.weight, model.blocks[0].up.bias[:, None]], 1)
    assert all((up[:5] == row).all(1).any() for row in up[5:])
    assert not model.blocks[0].down.weight[:, 5:].any()
