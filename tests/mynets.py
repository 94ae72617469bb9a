"""Networks as a user brings them: attention with heads in an attribute, BatchNorm and groups, a model with a config."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """A pre-norm block with two heads of attention."""

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.heads, self.head_dim = 2, width // 2
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).view(*x.shape[:2], 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class ViT(nn.Module):
    """A vision transformer on patches of 4 pixels."""

    def __init__(self, inputs: tuple[int, ...], outputs: int, width: int = 8):
        super().__init__()
        self.embed = nn.Conv2d(inputs[0], width, 4, 4)
        self.position = nn.Parameter(0.02 * torch.randn(1, inputs[1] * inputs[2] // 16, width))
        self.blocks = nn.Sequential(Block(width, 8))
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.embed(x).flatten(2).transpose(1, 2) + self.position).mean(1))


class Config:
    """Sizes beside the weights, as Hugging Face's models keep them."""

    def __init__(self, **values: int):
        vars(self).update(values)


class RMSNorm(nn.Module):
    """An RMS norm with an eps of its own."""

    def __init__(self, width: int):
        super().__init__()
        self.weight, self.variance_epsilon = nn.Parameter(torch.ones(width)), 1e-6

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)


class Decoder(nn.Module):
    """Rows of an image as tokens: a config with the number of heads, tied weights, a buffer that is not saved."""

    def __init__(self, config: Config):
        super().__init__()
        self.config, width, inner = config, config.hidden_size, config.intermediate_size
        self.embed, self.norm = nn.Linear(config.row, width), RMSNorm(width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.up, self.down = nn.ModuleList([nn.Linear(width, inner)] * 2), nn.Linear(inner, width)
        self.classifier = nn.Linear(width, config.num_labels)
        self.register_buffer("mask", torch.full((config.rows, config.rows), -9.0).triu(1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.flatten(1).unflatten(1, (-1, self.config.row)))
        q, k, v = (self._heads(layer(self.norm(x))) for layer in (self.q, self.k, self.v))
        weights = (q @ k.transpose(-1, -2) + self.mask).softmax(-1)
        x = x + self.o((weights @ v).transpose(1, 2).flatten(2))
        return self.classifier((x + self.down(F.silu(self.up[0](x) + self.up[1](x))))[:, -1])

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.config.num_attention_heads, self.config.head_dim).transpose(1, 2)


def vit(inputs, outputs):
    return ViT(inputs, outputs)


def conv():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, padding=1, groups=2),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 10),
    )


def decoder(outputs):
    sizes = {"row": 8, "rows": 8, "hidden_size": 8, "num_attention_heads": 2, "head_dim": 4, "intermediate_size": 4}
    return Decoder(Config(**sizes, num_labels=outputs))


def chain(outputs):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, outputs))


def table(inputs, outputs):
    return nn.Sequential(nn.Linear(inputs[0], 3), nn.ReLU(), nn.Linear(3, outputs))


class Tuple(nn.Module):
    """Answers with a tuple."""

    def __init__(self):
        super().__init__()
        self.net = five()

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (self.net(x),)


def five():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.ReLU(), nn.Linear(4, 5))


def needs(width):
    return nn.Linear(width, 10)


def fails():
    raise OSError("no\nfile")


def wrong():
    return nn.Linear(7, 10)


def fixed():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def lazy():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(10))


def same(net=nn.Sequential(nn.Flatten(), nn.Linear(64, 10))):  # noqa: B008 - the same network at each call
    return net


def tied(weight=nn.Parameter(torch.zeros(10, 64))):  # noqa: B008 - the same weights at each call
    net = fixed()
    net[1].weight = weight
    return net


def changing(widths=iter(range(3, 99))):  # noqa: B008 - another width at each call
    width = next(widths)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


made = fixed()
number = 3
