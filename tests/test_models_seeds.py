"""Seeds: small networks that are rebuilt from a few JSON values, and take and give the user's own units."""

import json
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from net_cases import noise
from outgrow.errors import InputError
from outgrow.models import NAMES, ConvNet, ResNet, Seed
from outgrow.net.axes import axes
from outgrow.net.surgery import is_channels_last

SEEDS = {
    "table": Seed("mlp", (5,), 3),
    "table, one feature": Seed("mlp", (1,), 1, widths=(1,)),
    "image to mlp": Seed("mlp", (3, 8, 8), 10, widths=(4,)),
    "image": Seed("convnet", (1, 8, 8), 10),
    "small image": Seed("convnet", (1, 3, 3), 2),
    "large image": Seed("convnet", (3, 32, 32), 10),
    "residual": Seed("resnet", (3, 32, 32), 10),
    "residual, small": Seed("resnet", (1, 4, 4), 2),
    "in units": Seed("mlp", (2,), 2, input_mean=(1, 2), input_std=(3, 4), output_mean=(5, 6), output_std=(7, 8)),
    "pixels in units": Seed("resnet", (2, 8, 8), 1, input_mean=(0.5, 0.4), input_std=(0.2, 0.1)),
}
every_seed = pytest.mark.parametrize("seed", SEEDS.values(), ids=SEEDS)


@every_seed
def test_a_seed_runs_and_comes_back_from_json(seed: Seed):
    assert Seed.from_json(json.loads(json.dumps(seed.to_json()))) == seed
    model = seed.build()
    assert model(seed.example().expand(4, *seed.inputs)).shape == (4, seed.outputs)
    assert all(torch.isfinite(p).all() for p in model.parameters())
    torch.manual_seed(3)
    first = seed.build().state_dict()
    torch.manual_seed(3)
    again = Seed.from_json(seed.to_json()).build().state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)


@every_seed
def test_every_width_of_a_seed_can_grow(seed: Seed):
    model = seed.build()
    growable = [axis for axis in axes(model, seed.example()) if axis.growable]
    layers = [m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    if seed.model != "resnet":
        assert sorted(axis.size for axis in growable) == sorted(seed.widths)
        assert len(growable) == len(layers) - 1
    else:  # the stream and the inside of each stage's block; the first stage's stream is the stem's
        assert sorted(axis.size for axis in growable) == sorted(2 * seed.widths)


@every_seed
def test_convolutions_compute_channels_last_on_one_thread(seed: Seed, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)

    def hear(module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        assert is_channels_last(inputs[0])
        assert is_channels_last(output)

    model = seed.build()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(hear)
    model(seed.example().expand(4, *seed.inputs))


@pytest.mark.parametrize("model", ["convnet", "resnet"])
def test_narrow_networks_stay_contiguous_in_training_on_several_threads(model: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    for channels, width, last in ((3, 4, False), (1, 4, False), (3, 16, True)):
        net = Seed(model, (channels, 8, 8), 10, (width, width)).build()
        seen: list[bool] = []
        for norm in [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]:
            norm.register_forward_hook(lambda module, inputs, output, to=seen: to.append(is_channels_last(output)))
        net(noise(4, channels, 8, 8))
        assert set(seen) == {last}
        seen.clear()
        net.eval()(noise(4, channels, 8, 8))
        assert set(seen) == {True}


IN_DOUBLE = """
import sys
import torch
from outgrow.models import ConvNet, ResNet

torch.manual_seed(0)
torch.set_num_threads(int(sys.argv[1]))
for net, shape in (
    (ResNet(3, (4, 8, 16), 10), (3, 32, 32)),
    (ResNet(1, (4, 7, 9), 10), (1, 28, 28)),
    (ConvNet(3, (4, 4, 8, 8), 10), (3, 32, 32)),
    (ConvNet(1, (4, 5, 7, 9), 10), (1, 28, 28)),
):
    for examples, trains in ((32, True), (61, True), (61, False)):  # checks are in eval mode
        net.train(trains)
        x, towards, found = torch.randn(examples, *shape), torch.randn(examples, 10), []
        for dtype in (torch.float64, torch.float32):
            y = net.to(dtype)(x.to(dtype))
            grads = torch.autograd.grad(y, [*net.parameters()], towards.to(dtype))
            found.append(torch.cat([grad.double().flatten() for grad in grads]))
        exact, other = found
        assert (other - exact).norm() < 0.05 * exact.norm()  # rounding may flip some ReLUs
"""


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("isa", ["AVX2", "ALL"])
def test_narrow_networks_have_their_gradients_on_any_processor(isa: str, threads: int):
    command = [sys.executable, "-c", IN_DOUBLE, str(threads)]
    done = subprocess.run(command, env={**os.environ, "ONEDNN_MAX_CPU_ISA": isa}, timeout=120)
    assert done.returncode == 0


def test_units_go_in_and_out():
    seed = SEEDS["in units"]
    model = seed.build()
    x = noise(16, 2)
    inner = model.mlp((x - torch.tensor([1.0, 2.0])) / torch.tensor([3.0, 4.0]))
    torch.testing.assert_close(model(x), inner * torch.tensor([7.0, 8.0]) + torch.tensor([5.0, 6.0]))
    assert not any(name.startswith(("input", "output")) for name, _ in model.named_parameters())


def test_pixels_are_standardised_by_channel():
    model = SEEDS["pixels in units"].build()
    x = noise(3, 2, 8, 8)
    expected = (x - torch.tensor([0.5, 0.4])[:, None, None]) / torch.tensor([0.2, 0.1])[:, None, None]
    torch.testing.assert_close(model.input(x), expected)


def test_a_residual_block_keeps_its_shortcut_plain_where_it_can():
    net = ResNet(3, (4, 8), 2, depth=2)
    assert [type(block.shortcut) for stage in net.stages for block in stage] == [
        nn.Identity,
        nn.Identity,
        nn.Sequential,
        nn.Identity,
    ]
    assert net(noise(2, 3, 8, 8)).shape == (2, 2)


def test_stages_halve_the_resolution():
    seen = []
    net = ConvNet(1, (2, 2, 3, 3, 4, 4), 2)
    for norm in [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]:
        norm.register_forward_hook(lambda module, args, output: seen.append(output.shape[-1]))
    net(noise(2, 1, 16, 16))
    assert seen == [16, 16, 8, 8, 4, 4]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("transformer", (3, 8, 8), 2), f"unknown model 'transformer': choose one of {', '.join(NAMES)}"),
        (("convnet", (5,), 2), "convnet reads images"),
        (("resnet", (5,), 2), "resnet reads images"),
        (("convnet", (1, 8, 8), 2, (4, 4, 8)), "even number of widths"),
    ],
)
def test_a_seed_that_cannot_be(values, message):
    with pytest.raises(InputError, match=message):
        Seed(*values)
