"""What a run saves: averages of its weights."""

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from outgrow.data import load
from outgrow.train.average import DECAY, restart_, settle_statistics_, settling_examples, update_
from outgrow.train.loaders import Loaders
from outgrow.train.recipe import Recipe


def test_it_is_what_torch_does_with_the_same_rule():
    """Also after a restart, and for the statistics of norms, which are copied."""

    def rule(average: torch.Tensor, current: torch.Tensor, count: int) -> torch.Tensor:
        return average + (current - average) * (DECAY + 1) / (float(count) + DECAY + 1)

    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double()
    mine, theirs = AveragedModel(model), AveragedModel(model, avg_fn=rule)
    for at in range(12):
        if at == 7:
            restart_(mine)
            restart_(theirs)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_()
        model(torch.randn(5, 3).double())
        update_(mine, model)
        theirs.update_parameters(model)
        assert all(p.requires_grad for p in mine.module.parameters())
        for (name, tensor), other in zip(mine.state_dict().items(), theirs.state_dict().values(), strict=True):
            torch.testing.assert_close(tensor, other, rtol=1e-12, atol=1e-12, msg=name)


def test_an_average_of_equal_weights_is_these_weights():
    model = nn.Linear(3, 2)
    average = AveragedModel(model)
    for _ in range(5):
        update_(average, model)
    assert torch.equal(average.module.weight, model.weight)


@pytest.mark.parametrize("norm", [nn.BatchNorm1d(64), nn.LayerNorm(64)], ids=["batch", "layer"])
def test_as_many_examples_are_counted_as_settle_statistics(norm):
    seen = []
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), norm)
    model.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    full = Loaders(load("digits"), Recipe(epochs=1, batch_size=32), 0, "cpu").full
    settle_statistics_(model, full)
    assert sum(seen) == settling_examples(model, full)
    assert bool(seen) == isinstance(norm, nn.BatchNorm1d)
