"""Blocks go in without a change of the function, learn, and come out as if they had never been."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils import _pytree as pytree

from outgrow.errors import EditError, GrowthError
from outgrow.models import Seed
from outgrow.models.residual import Residual
from outgrow.net.axes import axes
from outgrow.net.carry import carry_average_
from outgrow.net.deepen import deepen_
from outgrow.net.edit import Edit, Insertion
from outgrow.net.inputs import call
from outgrow.net.place import Place
from outgrow.net.places import places
from outgrow.net.preserve import change
from outgrow.net.surgery import insert_
from outgrow.net.twin import twin

try:
    import transformers
except ImportError:
    transformers = None


@dataclass(frozen=True)
class Case:
    """A network, one input and the places that it has.

    Args:
        build: Makes the network.
        example: One input.
        residual: For each place behind a block, what is zero in the copy.
        chain: For each place behind an activation, what comes in.
        none: For each container without a place, part of the reason.
        random: Whether train mode draws random numbers, so that only outgrow itself can compare in it.
        still: Parts of the names of parameters that have no gradient in any network of this kind.
    """

    build: Callable[[], nn.Module]
    example: Any
    residual: dict[str, str] = field(default_factory=dict)
    chain: dict[str, str] = field(default_factory=dict)
    none: dict[str, str] = field(default_factory=dict)
    random: bool = False
    still: tuple[str, ...] = ()

    def model(self, dtype: torch.dtype = torch.float32) -> nn.Module:
        """Return the network as it might be after training: weights of every sign, statistics other than 0 and 1."""
        torch.manual_seed(0)
        model = self.build()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
            for module in model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.running_mean.normal_()
                    module.running_var.uniform_(0.5, 2.0)
        return model.to(dtype)

    def inputs(self, dtype: torch.dtype = torch.float32) -> Any:
        return pytree.tree_map(lambda t: t.to(dtype) if t.is_floating_point() else t, self.example)


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


class Basic(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)


class Bottleneck(nn.Module):
    """As in torchvision, with squeeze and excitation."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, groups=2, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, channels, 1, bias=False), nn.BatchNorm2d(channels)
        self.squeeze, self.excite = nn.Conv2d(channels, 2, 1), nn.Conv2d(2, channels, 1)

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(y)))))
        y = y * self.excite(F.silu(self.squeeze(y.mean((2, 3), keepdim=True)))).sigmoid()
        return F.relu(x + y)


class Images(nn.Module):
    """A stem, containers by name, and a head."""

    def __init__(self, channels: int, out: int, **containers: nn.Module):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, channels, 3, padding=1), nn.Linear(out, 2)
        self.path = [*containers]
        for name, container in containers.items():
            self.add_module(name, container)

    def forward(self, x):
        x = F.relu(self.stem(x))
        for name in self.path:
            container = self.get_submodule(name)
            for block in [container] if isinstance(container, nn.Sequential) else container:
                x = block(x)
        return self.head(x.mean((2, 3)))


class ConvNeXtBlock(nn.Module):
    """Layer scale is the first parameter by name and the last in use."""

    def __init__(self, channels: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((channels,), 1e-6))
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.up, self.act, self.down = nn.Linear(channels, 6), nn.GELU(), nn.Linear(6, channels)

    def forward(self, x):
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.gamma * self.down(self.act(self.up(y)))
        return x + y.permute(0, 3, 1, 2)


class Custom(nn.Module):
    """Activations that are attributes, one of them used twice."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(5, 2)
        self.act, self.often = nn.ReLU(), nn.ReLU()

    def forward(self, x):
        return self.c(self.often(self.b(self.often(self.act(self.a(x))))))


class Counted(nn.Module):
    """Blocks behind a stored count, with a number each, and called with more than the stream."""

    def __init__(self, blocks: int = 3):
        super().__init__()
        self.width, self.how_many = 3, blocks  # on purpose the same number
        self.blocks = nn.ModuleList(Numbered(i) for i in range(blocks))

    def forward(self, x):
        seen = []
        for i in range(self.how_many):
            x, number = self.blocks[i](x, scale=2.0, mask=torch.ones_like(x) > 0)
            seen.append(number)
        assert seen == [*range(len(seen))]
        return {"out": x * self.width}


class Numbered(nn.Module):
    def __init__(self, index: int):
        super().__init__()
        self.index, self.inner = index, nn.Linear(3, 3)

    def forward(self, x, scale, mask):
        return x + scale * torch.tanh(self.inner(x)) * 0.1 * self.inner.weight[0] * mask, self.index


def perceptron(act: Callable[[], nn.Module]) -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), act(), nn.Linear(4, 5), nn.Dropout(0.0), act(), nn.Linear(5, 2))


def conv_chain() -> nn.Sequential:
    first = nn.Conv2d(3, 4, 5, padding=2), nn.ReLU(True)
    second = nn.Conv2d(4, 5, (2, 3)), nn.MaxPool2d(2), nn.ReLU6()
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(45, 6), nn.SiLU(), nn.Linear(6, 2))


def conv_norm_chain() -> nn.Sequential:
    net = nn.Sequential()
    net.add_module("conv", nn.Conv2d(3, 4, 3, padding=1, bias=False))
    net.add_module("norm", nn.BatchNorm2d(4, momentum=0.2))
    net.add_module("relu", nn.ReLU(True))
    net.add_module("pool", nn.AdaptiveAvgPool2d(1))
    net.add_module("flat", nn.Flatten())
    net.add_module("fc", nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.BatchNorm1d(5), nn.Linear(5, 2)))
    return net


def encoder(norm_first: bool, dropout: float = 0.0) -> nn.Module:
    layer = nn.TransformerEncoderLayer(6, 2, 8, dropout, batch_first=True, norm_first=norm_first)
    return nn.Sequential(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(6, 2))


ROW, IMAGE, WORDS = noise(5, 3), noise(4, 3, 8, 8), noise(3, 4, 6)
PLAIN = "no shortcut leads around them"
ATTENTION = "self_attn.out_proj.weight, self_attn.out_proj.bias, linear2.weight, linear2.bias"

CASES = {
    "seed": Case(
        lambda: Seed("resnet", (3, 8, 8), 2, (4, 6)).build(),
        torch.zeros(4, 3, 8, 8),
        {"resnet.stages.0.0": "norm2.weight, norm2.bias"},
        {"resnet.stem.2": "x + BatchNorm(Conv2d(4, 4, 3x3)) at zero gain and ReLU"},
    ),
    "basic": Case(
        lambda: Images(
            4,
            7,
            layer1=nn.Sequential(Basic(4, 4), Basic(4, 4)),
            layer2=nn.Sequential(Basic(4, 6, 2)),
            layer3=nn.Sequential(Basic(6, 7, 2), Basic(7, 7)),
        ),
        IMAGE,
        dict.fromkeys(("layer1.0", "layer1.1", "layer3.1"), "bn2.weight, bn2.bias"),
    ),
    "bottleneck": Case(
        lambda: Images(6, 6, blocks=nn.ModuleList([Bottleneck(6, 4)])), IMAGE, {"blocks.0": "bn3.weight, bn3.bias"}
    ),
    "convnext": Case(
        lambda: Images(4, 4, stages=nn.Sequential(ConvNeXtBlock(4), ConvNeXtBlock(4))),
        IMAGE,
        {"stages.0": "gamma", "stages.1": "gamma"},
        {f"stages.{i}.act": "Linear(6, 6) at the identity and Rational" for i in (0, 1)},
    ),
    "pre-norm": Case(lambda: encoder(True), WORDS, {f"0.layers.{i}": ATTENTION for i in (0, 1)}),
    "post-norm": Case(lambda: encoder(False), WORDS, none={"0.layers": r"leads through norm2 \(LayerNorm"}),
    "counted": Case(Counted, ROW, {f"blocks.{i}": "inner.weight" for i in range(3)}),
    "plain blocks": Case(lambda: Seed("convnet", (3, 8, 8), 2, (4, 4)).build(), IMAGE, none={"convnet.blocks": PLAIN}),
    "mlp": Case(
        lambda: perceptron(nn.ReLU),
        ROW,
        chain={"1": "Linear(4, 4) at the identity and ReLU", "4": "Linear(5, 5) at the identity and ReLU"},
    ),
    "gelu": Case(
        lambda: perceptron(nn.GELU),
        ROW,
        chain={"1": "Linear(4, 4) at the identity and Rational", "4": "Linear(5, 5) at the identity and Rational"},
    ),
    "prelu": Case(
        lambda: nn.Sequential(nn.Linear(3, 4), nn.PReLU(4), nn.Linear(4, 2)),
        ROW,
        chain={"1": "Linear(4, 4) at the identity and Rational"},
    ),
    "convolutions": Case(
        conv_chain,
        IMAGE,
        chain={
            "1": "Conv2d(4, 4, 5x5) at the identity and ReLU",
            "4": "Conv2d(5, 5, 1x3) at the identity and ReLU6",
            "7": "Linear(6, 6) at the identity and Rational",
        },
    ),
    "norms": Case(
        conv_norm_chain,
        IMAGE,
        chain={
            "relu": "x + BatchNorm(Conv2d(4, 4, 3x3)) at zero gain and ReLU",
            "fc.1": "x + BatchNorm(Linear(5, 5)) at zero gain and Rational",
        },
    ),
    "custom": Case(Custom, ROW, chain={"act": "Linear(4, 4) at the identity and ReLU"}),
}


def hugging_face() -> dict[str, Case]:
    """Small networks at random weights."""
    T = transformers
    words = {"input_ids": torch.randint(0, 30, (2, 7), generator=torch.Generator().manual_seed(1))}
    image = {"pixel_values": noise(2, 3, 32, 32)}
    size = {"hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {**size, "vocab_size": 30, "num_key_value_heads": 2, "max_position_embeddings": 32}
    calm = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    gpt2 = {"vocab_size": 30, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 16}
    gpt2 |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 0, "eos_token_id": 0}
    t5 = {"vocab_size": 30, "d_model": 16, "d_kv": 4, "d_ff": 20, "num_layers": 2, "num_heads": 3, "dropout_rate": 0.0}
    swin = {"image_size": 32, "patch_size": 4, "embed_dim": 8, "depths": [2, 1], "num_heads": [2, 4], "window_size": 4}
    mlp = "attention.o_proj.weight, attention.o_proj.bias, mlp.fc2.weight, mlp.fc2.bias"
    glu = "self_attn.o_proj.weight, mlp.down_proj.weight"
    rows = dict.fromkeys((f"model.layers.{i}" for i in (0, 1)), glu)
    gates = rational(20, *(f"model.layers.{i}.mlp.act_fn" for i in (0, 1)))
    return {
        "gpt2": Case(
            lambda: T.GPT2LMHeadModel(T.GPT2Config(**gpt2)),
            words,
            dict.fromkeys(
                ("transformer.h.0", "transformer.h.1"),
                "attn.c_proj.weight, attn.c_proj.bias, mlp.c_proj.weight, mlp.c_proj.bias",
            ),
            rational(64, "transformer.h.0.mlp.act", "transformer.h.1.mlp.act"),
        ),
        "llama": Case(lambda: T.LlamaForCausalLM(T.LlamaConfig(**text)), words, rows, gates),
        "qwen2": Case(lambda: T.Qwen2ForCausalLM(T.Qwen2Config(**text)), words, rows, gates, still=("k_proj.bias",)),
        "bert": Case(
            lambda: T.BertModel(T.BertConfig(**size, **calm, vocab_size=30), add_pooling_layer=False),
            words,
            chain=rational(20, *(f"encoder.layer.{i}.intermediate.intermediate_act_fn" for i in (0, 1))),
            none={"encoder.layer": r"its shortcut leads through output.LayerNorm \(LayerNorm\)"},
        ),
        "vit": Case(
            lambda: T.ViTForImageClassification(T.ViTConfig(**size, **calm, image_size=32, patch_size=8)),
            image,
            {"vit.layers.0": mlp, "vit.layers.1": mlp},
            rational(20, "vit.layers.0.mlp.activation_fn", "vit.layers.1.mlp.activation_fn"),
            still=("k_proj.bias",),
        ),
        "t5": Case(
            lambda: T.T5EncoderModel(T.T5Config(**t5)),
            words,
            {"encoder.block.1": "layer.0.SelfAttention.o.weight, layer.1.DenseReluDense.wo.weight"},
            {
                f"encoder.block.{i}.layer.1.DenseReluDense.act": "Linear(20, 20) at the identity and ReLU"
                for i in (0, 1)
            },
        ),
        "hf convnext": Case(
            lambda: T.ConvNextModel(T.ConvNextConfig(hidden_sizes=[8, 12], depths=[1, 2], num_stages=2)),
            image,
            dict.fromkeys(
                (f"encoder.stages.{i}" for i in ("0.layers.0", "1.layers.0", "1.layers.1")), "layer_scale_parameter"
            ),
            rational(32, "encoder.stages.0.layers.0.act")
            | rational(48, "encoder.stages.1.layers.0.act", "encoder.stages.1.layers.1.act"),
        ),
        "hf resnet": Case(
            lambda: T.ResNetModel(T.ResNetConfig(embedding_size=8, hidden_sizes=[16, 32], depths=[2, 1])),
            image,
            {"encoder.stages.0.layers.1": "layer.2.normalization.weight, layer.2.normalization.bias"},
            relu(8, 7, "embedder.embedder")
            | relu(4, 1, "encoder.stages.0.layers.0.layer.0", "encoder.stages.0.layers.1.layer.0")
            | relu(4, 3, "encoder.stages.0.layers.0.layer.1", "encoder.stages.0.layers.1.layer.1")
            | relu(16, 1, "encoder.stages.0.layers.0", "encoder.stages.0.layers.1")
            | relu(8, 1, "encoder.stages.1.layers.0.layer.0")
            | relu(8, 3, "encoder.stages.1.layers.0.layer.1"),
        ),
        "swin": Case(
            lambda: T.SwinForImageClassification(T.SwinConfig(**swin)),
            image,
            dict.fromkeys((f"swin.encoder.layers.{i}" for i in ("0.blocks.0", "0.blocks.1", "1.blocks.0")), mlp),
            rational(32, *(f"swin.encoder.layers.0.blocks.{i}.mlp.activation_fn" for i in (0, 1)))
            | rational(64, "swin.encoder.layers.1.blocks.0.mlp.activation_fn"),
            random=True,
            still=("k_proj.bias",),
        ),
    }


def rational(channels: int, *names: str) -> dict[str, str]:
    return dict.fromkeys(names, f"Linear({channels}, {channels}) at the identity and Rational")


def relu(channels: int, size: int, *names: str) -> dict[str, str]:
    what = f"x + BatchNorm(Conv2d({channels}, {channels}, {size}x{size})) at zero gain and ReLU"
    return {f"{name}.activation": what for name in names}


ALL = CASES | (hugging_face() if transformers else {})
WITH_PLACES = {name: case for name, case in ALL.items() if case.residual or case.chain}
every_case = pytest.mark.parametrize("case", WITH_PLACES.values(), ids=WITH_PLACES)
needs_transformers = pytest.mark.skipif(transformers is None, reason="transformers is not installed")


def run(model: nn.Module, inputs: Any, training: bool) -> list[Tensor]:
    """Outputs of a copy, so that running statistics stay."""
    torch.manual_seed(0)
    with torch.no_grad():
        leaves = pytree.tree_leaves(call(copy.deepcopy(model).train(training), inputs))
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def everything_in(model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> object:
    """Modules and tensors by identity and by value, hooks, attributes, configurations, the optimizer."""
    modules = [
        (path, id(module), module.training, len(module._forward_hooks) + len(module._forward_pre_hooks))
        for path, module in model.named_modules()
    ]
    tensors = {name: (id(t), t.tolist(), t.requires_grad) for name, t in model.state_dict(keep_vars=True).items()}
    plain = [{k: v for k, v in vars(m).items() if isinstance(v, (int, tuple, list))} for m in model.modules()]
    configs = [str(getattr(m, "config", "")) for m in model.modules()]
    groups = [[id(p) for p in group["params"]] for group in optimizer.param_groups] if optimizer else []
    state = {
        id(p): {k: (id(v), v.tolist()) if isinstance(v, Tensor) else v for k, v in entries.items()}
        for p, entries in (optimizer.state if optimizer else {}).items()
    }
    return modules, tensors, plain, configs, groups, state


def step(model: nn.Module, inputs: Any, optimizer: torch.optim.Optimizer, steps: int = 1) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        leaves = pytree.tree_leaves(call(model, inputs))
        sum((leaf * noise(*leaf.shape).to(leaf)).sum() for leaf in leaves if isinstance(leaf, Tensor)).backward()
        optimizer.step()


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


@pytest.mark.skipif(transformers is None, reason="transformers is not installed")
@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2"])
def test_generation_with_a_cache_stays(name):
    model, inputs = ALL[name].model().eval(), ALL[name].example
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    before = model.generate(**inputs, **options)
    edit = deepen_(model, next(iter(ALL[name].residual)), example=inputs)
    assert torch.equal(before, model.generate(**inputs, **options))
    assert torch.equal(before, model.generate(**inputs, **options, use_cache=False))
    assert model.config.num_hidden_layers == 3
    edit.undo()
    assert model.config.num_hidden_layers == 2
    assert torch.equal(before, model.generate(**inputs, **options))


@pytest.mark.skipif(transformers is None, reason="transformers is not installed")
@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2", "vit", "t5"])
def test_a_deepened_model_is_what_its_configuration_builds(name):
    case = ALL[name]
    model = case.model()
    deepen_(model, next(iter(case.residual)), example=case.example)
    assert model.config is next(m.config for m in model.modules() if m is not model and hasattr(m, "config"))
    fresh = type(model)(copy.deepcopy(model.config)).eval()
    fresh.load_state_dict(model.state_dict())
    assert change(run(model, case.example, False), run(fresh, case.example, False)) <= 1e-6


@pytest.mark.skipif(transformers is None, reason="transformers is not installed")
def test_inverted_residuals_are_places_where_they_have_a_shortcut():
    torch.manual_seed(0)
    config = transformers.MobileNetV2Config(depth_multiplier=0.25, image_size=32, classifier_dropout_prob=0.0)
    model = transformers.MobileNetV2ForImageClassification(config).eval()
    image = {"pixel_values": noise(2, 3, 32, 32)}
    found = places(model, image)
    shortcuts = [i for i, block in enumerate(model.mobilenet_v2.layer) if block.use_residual]
    assert [p.name for p in found if p.kind == "residual"] == [f"mobilenet_v2.layer.{i}" for i in shortcuts]
    zeros = {p.recipe.zeros for p in found if p.kind == "residual"}
    assert zeros == {("reduce_1x1.normalization.weight", "reduce_1x1.normalization.bias")}
    assert sum(p.kind == "chain" for p in found) == sum(type(m) is nn.ReLU6 for m in model.modules())
    out = {training: run(model, image, training) for training in (False, True)}
    for name in ("mobilenet_v2.layer", "mobilenet_v2.layer.5.conv_3x3.activation"):
        deepen_(model, name, example=image)
    assert all(change(values, run(model, image, training)) <= 1e-5 for training, values in out.items())


# what is shared


class Sharing(nn.Module):
    """Blocks that share a layer, a weight and an object with the rest."""

    def __init__(self):
        super().__init__()
        self.config = {"scale": 0.5}
        self.stem, self.act = nn.Linear(3, 4), nn.Linear(4, 4)
        self.blocks = nn.Sequential(*(SharingBlock(self) for _ in range(2)))

    def forward(self, x):
        return self.act(self.blocks(self.stem(x)))


class SharingBlock(nn.Module):
    def __init__(self, owner: Sharing):
        super().__init__()
        self.config, self.act = owner.config, owner.act
        self.tied, self.up, self.down = nn.Linear(4, 4), nn.Linear(4, 5), nn.Linear(5, 4)
        self.tied.weight = owner.act.weight

    def forward(self, x):
        y = torch.tanh(self.act(x)) + torch.tanh(self.tied(x))
        return x + self.config["scale"] * self.down(torch.tanh(self.up(y)))


def test_a_copy_shares_what_its_block_shares():
    model = Sharing()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = [*model.parameters()]
    edit = deepen_(model, "blocks", example=ROW, optimizer=optimizer)
    old, new = model.blocks[1], model.blocks[2]
    assert new.act is model.act
    assert new.tied.weight is model.act.weight
    assert new.config is model.config
    assert new.up.weight is not old.up.weight
    assert [*edit.insertions[0].like] == [
        f"0.{key}" for key in ("tied.bias", "up.weight", "up.bias", "down.weight", "down.bias")
    ]
    added = [p for p in optimizer.param_groups[0]["params"] if all(p is not q for q in before)]
    assert len(added) == 5
    edit.undo()
    assert len(optimizer.param_groups[0]["params"]) == len(before)


def test_a_weight_that_is_used_outside_too_is_never_set_to_zero():
    class Block(nn.Module):
        def __init__(self, shared):
            super().__init__()
            self.up, self.shared = nn.Linear(4, 4), shared

        def forward(self, x):
            return x + self.shared(torch.tanh(self.up(x)))

    shared = nn.Linear(4, 4, bias=False)
    model = nn.Sequential(shared, nn.Sequential(Block(shared), Block(shared)))
    found = places(model, WORDS[..., :4])
    assert {p.name: p.what for p in found} == {
        f"1.{i}": "a copy of it (Block), up.weight, up.bias at zero" for i in (0, 1)
    }
    weight = shared.weight.detach().clone()
    deepen_(model, "1", example=WORDS[..., :4])
    assert torch.equal(weight, shared.weight)


def test_new_parameters_join_the_group_of_what_they_are_like_and_frozen_ones_stay_frozen():
    model = CASES["basic"].model()
    model.layer1[1].bn1.weight.requires_grad_(False)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1 and p.requires_grad]
    optimizer = torch.optim.AdamW([{"params": decayed}, {"params": others, "weight_decay": 0.0}])
    step(model, IMAGE, optimizer)
    edit = deepen_(model, "layer1.1", example=IMAGE, optimizer=optimizer)
    new = dict(model.layer1[2].named_parameters())
    assert not new.pop("bn1.weight").requires_grad
    for parameter in new.values():
        groups = [any(parameter is p for p in group["params"]) for group in optimizer.param_groups]
        assert groups == [parameter.ndim > 1, parameter.ndim == 1]
    step(model, IMAGE, optimizer)
    edit.undo()
    assert [len(group["params"]) for group in optimizer.param_groups] == [len(decayed), len(others)]


def test_undo_restores_the_optimizer():
    case = CASES["norms"]
    model = case.model()
    optimizer = torch.optim.AdamW(model.parameters())
    step(model, IMAGE, optimizer, 2)
    before = everything_in(model, optimizer)
    edits = [deepen_(model, name, example=IMAGE, optimizer=optimizer) for name in ("relu", "fc.1")]
    for edit in reversed(edits):
        edit.undo()
    assert everything_in(model, optimizer) == before


def test_averages_follow():
    model = CASES["counted"].model()
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    averaged.update_parameters(model)
    out = run(averaged, ROW, False)
    edit = deepen_(model, "blocks", example=ROW, averages=[averaged])
    assert change(out, run(averaged, ROW, False)) <= 1e-6
    averaged.update_parameters(model)
    assert averaged.module.how_many == 4
    edit.undo()
    assert averaged.module.how_many == 3
    assert change(out, run(averaged, ROW, False)) <= 1e-6


def test_the_average_of_a_copy_shares_what_its_block_shares():
    model = Sharing()
    averaged = AveragedModel(model)
    out = run(averaged, ROW, False)
    before = dict(model.named_parameters(remove_duplicate=False))
    edit = deepen_(model, "blocks", example=ROW)
    carry_average_(averaged, edit, before)
    assert averaged.module.blocks[2].tied.weight is averaged.module.act.weight
    assert averaged.module.act.weight is not model.act.weight
    assert len([*averaged.module.parameters()]) == len([*model.parameters()])
    averaged.update_parameters(model)
    assert change(run(model, ROW, False), run(averaged, ROW, False)) <= 1e-6
    edit.undo()
    assert change(out, run(averaged, ROW, False)) <= 1e-6


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


def test_a_twin_leaves_the_original():
    block = CASES["basic"].model().layer1[0]
    copied = twin(block, block)
    assert all(a is not b and torch.equal(a, b) for a, b in zip(copied.parameters(), block.parameters(), strict=True))
