"""The training state of a network: it goes to another one of the same layers, and to no other."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel

from outgrow.errors import InputError
from outgrow.net.axes import axes
from outgrow.net.widen import widen_
from outgrow.train.average import update_
from outgrow.train.folder import RunFolder
from outgrow.train.recipe import Recipe
from outgrow.train.state import captured, restore_


class Normed(nn.Module):
    """A network with heads and an RMS norm, whose eps goes with its width."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(5, 8)
        self.norm = nn.RMSNorm(8, eps=1e-5)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.outer = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.inner(x))
        return self.outer(x + self.attention(x, x, x, need_weights=False)[0]).mean(1)


def convolutions(channels: int) -> nn.Module:
    first, second = nn.Conv2d(channels, 4, 3), nn.Conv2d(4, 5, 1)
    pooled = nn.Sequential(first, nn.BatchNorm2d(4), nn.ReLU(), second, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return pooled.append(nn.Linear(5, 3)).to(memory_format=torch.channels_last)


NETWORKS = {
    "convolutions in channels last": (lambda: convolutions(3), (3, 6, 6)),
    "grey images in channels last": (lambda: convolutions(1), (1, 6, 6)),
    "heads and an RMS norm": (Normed, (7, 5)),
}


def steps(model, optimizer, average, shape, seed) -> list[torch.Tensor]:
    """Train for some steps; return weights and averages after each."""
    generator = torch.Generator().manual_seed(seed)
    seen = []
    for _ in range(3):
        optimizer.zero_grad()
        model.train()
        F.cross_entropy(model(torch.randn(16, *shape, generator=generator)), torch.arange(16) % 3).backward()
        optimizer.step()
        update_(average, model)
        seen += [p.detach().clone() for p in (*model.parameters(), *average.parameters(), *model.buffers())]
    return seen


@pytest.mark.parametrize("name", NETWORKS)
def test_a_training_state_goes_to_another_network_of_the_same_layers(name, tmp_path):
    make, shape = NETWORKS[name]
    recipe, example = Recipe(1, 16), torch.zeros(1, *shape)
    torch.manual_seed(0)
    model = make()
    optimizer, average = recipe.optimizer(model), AveragedModel(model)
    steps(model, optimizer, average, shape, 0)
    for axis in [axis.name for axis in axes(model, example) if axis.growable]:
        widen_(model, axis, 2, example=example, optimizer=optimizer, averages=[average])
    steps(model, optimizer, average, shape, 1)
    folder = RunFolder(tmp_path)
    tensors, facts = captured(model, optimizer, average, axes(model, example))
    folder.write_tensors("state.safetensors", tensors)
    folder.write_json("state.json", facts)
    other = make()
    anew, mean = recipe.optimizer(other), AveragedModel(other)
    restore_(other, anew, mean, folder.read_tensors("state.safetensors"), folder.read_json("state.json"))
    assert [p.stride() for p in other.parameters()] == [p.stride() for p in model.parameters()]
    pairs = zip(steps(model, optimizer, average, shape, 2), steps(other, anew, mean, shape, 2), strict=True)
    assert all(torch.equal(one, same) for one, same in pairs)


def test_a_state_of_other_layers_is_refused():
    states = []
    for depth in (1, 2):
        model = nn.Sequential(*(nn.Linear(3, 3) for _ in range(depth)))
        states.append((model, Recipe(1, 1).optimizer(model), AveragedModel(model)))
    with pytest.raises(InputError, match=r"1\.bias, 1\.weight are in one of them only"):
        restore_(*states[0], *captured(*states[1]))
    with pytest.raises(InputError, match="trains other parameters, too"):
        captured(states[0][0], states[1][1], states[0][2])
