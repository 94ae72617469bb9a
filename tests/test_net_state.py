"""State that can't follow an edit starts anew, and optimizers that nobody knows are followed too."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from optimizer_cases import EDITS, X, births_in, every_edit, seed, steps, widened
from optimizer_snapshot import everything_in
from outgrow.net.laws import LAWS, law_of
from outgrow.net.newborns import Newborns


@every_edit
def test_factored_state_starts_anew(edit):
    model = seed().float()
    optimizer = torch.optim.Adafactor(model.parameters())
    steps(model, optimizer, 0, 3)
    before = everything_in(optimizer)
    if edit is EDITS["deeper"]:
        pytest.skip("new modules leave the state of the others")
    with pytest.warns(UserWarning, match=r"Adafactor has state that can't .* anew for 0\.weight, 0\.bias, 2\.weight"):
        done = edit(model, optimizer)
    assert set(map(id, optimizer.state)) == {id(model[2].bias), *map(id, model[4].parameters())}
    steps(model, optimizer, 3, 4)
    assert [int(optimizer.state[p]["step"]) for p in model.parameters()] == [1, 1, 1, 4, 4, 4]
    done.undo()
    kept = {p: s for p, s, _ in before[1]}
    assert {id(p): id(s) for p, s in optimizer.state.items()} == kept
    steps(model, optimizer, 4, 5)


@every_edit
def test_a_history_of_all_parameters_starts_anew(edit):
    model = seed()
    alone = copy.deepcopy(model)
    optimizer, other = (torch.optim.LBFGS(m.parameters(), lr=0.1, max_iter=3) for m in (model, alone))

    def step(net: nn.Module, own: Optimizer) -> Tensor:
        def closure() -> Tensor:
            own.zero_grad()
            loss = net(X).square().mean()
            loss.backward()
            return loss

        return own.step(closure)

    for _ in range(2):
        step(model, optimizer)
        step(alone, other)
    with pytest.warns(UserWarning, match="LBFGS has state that can't follow .* anew for all parameters"):
        done = edit(model, optimizer)
    assert not optimizer.state
    first, last = step(model, optimizer), step(model, optimizer)
    assert last < first
    for parameter, old in zip(alone.parameters(), model.parameters(), strict=False):
        old.grad = parameter.grad = None
    done.undo()
    with torch.no_grad():  # those that the edit left alone have moved
        for parameter, old in zip(model.parameters(), alone.parameters(), strict=True):
            parameter.copy_(old)
    assert torch.equal(step(model, optimizer), step(alone, other))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), alone.parameters(), strict=True))


class Signs(Optimizer):
    """An optimizer that nobody knows: signs of a momentum, times a rate that falls."""

    def __init__(self, parameters, extra: Callable[[nn.Parameter], dict[str, object]] = lambda p: {}) -> None:
        super().__init__(parameters, {"lr": 0.1})
        self._extra = extra

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                if not state:
                    state.update(
                        momentum=torch.zeros_like(parameter), rate=torch.tensor(1.0), count=0, **self._extra(parameter)
                    )
                state["momentum"].lerp_(parameter.grad, 0.5)
                state["rate"] *= 0.9
                state["count"] += 1
                parameter.sub_(state["momentum"].sign() * state["rate"] * group["lr"])


def test_an_unknown_optimizer_with_state_of_the_parameters_shape():
    model = seed()
    optimizer = Signs(model.parameters(), lambda p: {"notes": ["some"]})
    steps(model, optimizer, 0, 3)
    before = dict(optimizer.state[model[2].weight])
    edit = widened(model, "0", 2, optimizer)
    after = optimizer.state[model[2].weight]
    assert torch.equal(after["momentum"][:, :4], before["momentum"])
    assert not after["momentum"][:, 4:].any()
    assert (after["rate"], after["count"], after["notes"]) == (before["rate"], 3, ["some"])
    steps(model, optimizer, 3, 5)
    edit.undo()
    assert optimizer.state[model[2].weight]["count"] == 3
    assert float(optimizer.state[model[2].weight]["rate"]) == pytest.approx(0.9**3)


OF_OTHER_SHAPES = {
    "rows": lambda p: {"rows": torch.zeros(len(p))} if p.ndim > 1 else {},
    "list": lambda p: {"factors": [torch.eye(n) for n in p.shape]},
    "one number in brackets": lambda p: {"scale": torch.ones(1)},
}


@pytest.mark.parametrize("extra", OF_OTHER_SHAPES.values(), ids=OF_OTHER_SHAPES)
def test_an_unknown_optimizer_with_state_of_another_shape(extra):
    model = seed()
    optimizer = Signs(model.parameters(), extra)
    steps(model, optimizer, 0, 3)
    with pytest.warns(UserWarning, match=r"widening 0 by 2: Signs has state that can't .* 2\.weight"):
        widened(model, "0", 2, optimizer)
    assert model[2].weight not in optimizer.state
    steps(model, optimizer, 3, 5)
    assert optimizer.state[model[2].weight]["count"] == 2
    assert optimizer.state[model[4].weight]["count"] == 5


def test_an_adam_with_a_step_of_its_own_is_not_corrected():
    class Mine(torch.optim.Adam):
        def step(self, closure=None):
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.data.sub_(parameter.grad)

    class Named(torch.optim.Adam):
        pass

    assert law_of(Mine(seed().parameters())) is None
    assert law_of(Named(seed().parameters())) is LAWS[torch.optim.Adam]


def test_an_optimizer_that_a_framework_has_wrapped():
    class Wrapped(Optimizer):
        def __init__(self, optimizer: Optimizer) -> None:
            self.optimizer = optimizer

    model = seed()
    optimizer = torch.optim.Adam(model.parameters())
    steps(model, optimizer, 0, 2)
    widened(model, "0", 2, Wrapped(optimizer))
    Newborns.follow(Wrapped(optimizer))
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in model.parameters()]
    assert births_in(optimizer) == 3
