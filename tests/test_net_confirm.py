"""What is found is confirmed by running: attributes, layouts, outputs of every kind; and a model is left as it was."""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import outgrow
from net_cases import ROW, noise
from outgrow.errors import EditError, GrowthError
from outgrow.net.axes import axes

WORDS = noise(2, 5, 8)


class Heads(nn.Module):
    """Self-attention whose number of heads is kept under any name, in an object, or nowhere."""

    def __init__(self, name: str = "heads", holder: object = None):
        super().__init__()
        self.name = name
        if holder is not None:
            self.cfg = holder
        elif name:
            setattr(self, name, 2)
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x):
        heads = self.cfg.heads if hasattr(self, "cfg") else getattr(self, self.name, 2)
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, heads, 4).permute(2, 0, 3, 1, 4)
        return x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


@dataclass
class Config:
    heads: int = 2


def heads_of(model: nn.Module, example: torch.Tensor = WORDS) -> dict[str, bool]:
    return {axis.name: axis.growable for axis in axes(model, example) if axis.name.endswith("qkv")}


def test_attributes_of_other_names_are_found_for_each():
    model = nn.Sequential(Heads("heads"), Heads("number"), Heads("count"))
    assert heads_of(model) == {"0.qkv": True, "1.qkv": True, "2.qkv": True}
    outgrow.widen_(model, "1.qkv", 2, example=WORDS)
    assert (model[0].heads, model[1].number, model[2].count) == (2, 4, 2)


def test_a_number_that_is_written_out_does_not_stand_for_others():
    class Fixed(Heads):
        pass

    for blocks in ([Heads(), Fixed("")], [Fixed(""), Heads()]):
        model = nn.Sequential(*blocks)
        assert heads_of(model) == {f"{i}.qkv": type(block) is Heads for i, block in enumerate(blocks)}
    fixed = next(axis for axis in axes(nn.Sequential(Fixed("")), WORDS) if axis.name == "0.qkv")
    assert "cut: view (0, test_net_confirm.py:" in fixed.reason
    assert "with one more unit the model fails: shape" in fixed.reason
    assert "keep it in an int attribute of the module" in fixed.reason


def test_an_attribute_within_an_object_is_found():
    model = nn.Sequential(Heads(holder=Config()))
    edit = outgrow.widen_(model, "0.qkv", 1, example=WORDS)
    assert model[0].cfg.heads == 3
    edit.undo()
    assert model[0].cfg.heads == 2


class Depends(nn.Module):
    """Control flow that depends on the data."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        x = self.inner(x)
        return x if x.sum() > -1e9 else -x


def test_heads_are_found_where_a_model_has_to_be_recorded():
    assert heads_of(Depends(Heads())) == {"inner.qkv": True}
    fixed = next(axis for axis in axes(Depends(Heads("")), WORDS) if axis.name == "inner.qkv")
    assert "view (inner, test_net_confirm.py:" in fixed.reason


class Busy(nn.Module):
    """A forward pass that counts, remembers, and puts another buffer in place of one."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.count, self.seen = nn.Linear(3, 4), nn.Linear(4, 2), 0, []
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("last", torch.zeros(1))

    def forward(self, x):
        self.count += 1
        self.calls += 1
        self.last = x.detach().clone()
        self.seen.append(len(x))
        if not hasattr(self, "hooked"):  # as some libraries do to record what layers hand out
            self.hooked = self.a.register_forward_hook(lambda module, args, output: None)
        x = self.a(x).relu()
        return self.b(x * 2 if x.sum() > -1 else x)


def test_a_busy_model_is_left_as_it_was():
    model = Busy()
    before = (model.calls, model.last)
    axes(model, ROW)
    outgrow.places(model, ROW)
    outgrow.widen_(model, "a", 2, example=ROW).undo()
    assert (model.calls is before[0], model.last is before[1]) == (True, True)
    assert (float(model.calls), model.last.tolist(), model.count, model.seen) == (0.0, [0.0], 0, [])
    assert (len(model.a._forward_hooks), hasattr(model, "hooked")) == (0, False)


class Says(nn.Module):
    def __init__(self, output):
        super().__init__()
        self.a, self.b, self.output = nn.Linear(3, 4), nn.Linear(4, 2), output

    def forward(self, x):
        h = self.a(x).relu()
        return self.output(self.b(h) / h.shape[1])


class Result:
    def __init__(self, value):
        self.value = value


OUTPUTS = {
    "complex": lambda y: torch.complex(y, y),
    "whole numbers": lambda y: (y * 1e6).long(),
    "data class": lambda y: dataclass(type("Named", (), {"__annotations__": {"y": torch.Tensor}}))(y),
    "beside an object": lambda y: {"y": y, "cache": Result(y)},
}


@pytest.mark.parametrize("output", OUTPUTS.values(), ids=OUTPUTS)
def test_outputs_of_every_kind_are_compared(output):
    found = {axis.name: axis for axis in axes(Says(output), ROW)}
    assert found["a"].reason.startswith("with one more unit an output moves by")


class Stubborn(nn.Linear):
    """A layer whose size can't be set."""

    def __setattr__(self, name, value):
        if name == "out_features" and hasattr(self, "weight"):
            raise AttributeError("it can't be set")
        super().__setattr__(name, value)


def test_an_edit_that_fails_half_way_leaves_nothing_behind():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), Stubborn(4, 5), nn.ReLU(), nn.Linear(5, 2))
    before = {name: id(tensor) for name, tensor in model.state_dict(keep_vars=True).items()}
    found = {axis.name: axis for axis in axes(model, ROW)}
    assert found["2"].reason == "with one more unit the model fails: it can't be set"
    with pytest.raises(GrowthError, match="it can't be set"):
        outgrow.widen_(model, "2", 1, example=ROW)
    assert {name: id(tensor) for name, tensor in model.state_dict(keep_vars=True).items()} == before
    assert model[0].weight.shape == (4, 3)


class Noisy(nn.Module):
    """Noise as wide as an axis: what is drawn depends on the width."""

    def __init__(self):
        super().__init__()
        self.mean, self.spread, self.out = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(4, 3)

    def forward(self, x):
        spread = self.spread(x)
        return self.out(self.mean(x) + torch.randn_like(spread) * spread.exp())


def test_noise_as_wide_as_an_axis_is_no_change():
    assert outgrow.widen_(Noisy(), "mean", 2, example=ROW).moved <= 1e-5


def test_parameters_that_come_in_can_be_trained():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.inference_mode():
        outgrow.widen_(model, "0", 2, example=noise(4, 3))
    model(ROW).sum().backward()
    assert model[0].weight.grad.shape == (6, 3)


def test_what_has_no_weights_yet_or_no_code_is_refused():
    lazy = nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(GrowthError, match="got a lazy layer; run the model once first"):
        axes(lazy, ROW)
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        inner = torch.jit.trace(nn.Linear(3, 4), ROW)
    for look in (axes, outgrow.places):
        with pytest.raises(GrowthError, match="got a scripted one"):
            look(nn.Sequential(inner, nn.Linear(4, 2)), ROW)


def test_an_interrupt_leaves_nothing_behind(monkeypatch):
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    found = axes(model, ROW)
    before = model[0].weight

    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("outgrow.net.preserve.change", stop)
    with pytest.raises(KeyboardInterrupt):
        outgrow.net.widen.apply_(model, found, [outgrow.net.widening.Widening(found[0], 1)], inputs=ROW)
    assert model[0].weight is before
    assert issubclass(EditError, GrowthError)
