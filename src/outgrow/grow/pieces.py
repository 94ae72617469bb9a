"""The direction of a few new parameters, put together from pieces.

A piece P_i is a natural-gradient step of one tensor or layer, or one entry by itself. How much of each is taken is
solved with the exact curvature between them (Gauss-Newton's, F),

    V = P w,    w = -(C + damping * diag C)^-1 P^T g,    C = P^T F P,

so that tensors which do the same for the output (a layer's weights and the slope of its activation) don't count twice.
-g.V is the natural expansion score within the span of the pieces: of all the parameters where they are few.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from outgrow.grow.gain import judge
from outgrow.grow.moments import Moments
from outgrow.grow.objective import Objective, Tangent
from outgrow.grow.patches import is_mixer
from outgrow.grow.rows import natural_steps
from outgrow.grow.sample import Batch
from outgrow.grow.score import natural_step
from outgrow.grow.weights import tangent_of

MAX_EXACT = 16  # entries that are each a piece by itself
MAX_SCALARS = 4  # entries of a tensor that are, among more
ROUNDING = 1e-10  # of curvatures, relative to the largest


def layers_among(model: nn.Module, names: Sequence[str]) -> list[str]:
    """Return the paths of mixers whose weight is among parameters that are too many to be pieces one by one."""
    if entries(model, names) <= MAX_EXACT:
        return []
    paths = [name.removesuffix(".weight") for name in names if name.endswith(".weight")]
    return [path for path in paths if is_mixer(model.get_submodule(path))]


def pieces_of(
    model: nn.Module,
    groups: Mapping[str, Sequence[str]],
    moments: Mapping[str, Moments],
    batches: Sequence[Batch],
    objective: Objective,
    generator: torch.Generator,
    damping: float,
) -> dict[str, list[Tangent]]:
    """Return the pieces of each group's direction.

    Args:
        model: Run as it is.
        groups: Names of the parameters of each group.
        moments: K-FAC moments of layers, as far as there are any.
        batches: Examples for the Fisher matrices of other tensors.
        objective: What the model is trained for.
        generator: Draws Fisher noise.
        damping: Share of the mean diagonal that is added to every factor.

    Returns:
        The pieces by group.
    """

    def alone(names: Sequence[str]) -> Iterator[str]:
        """Tensors that have a step of their own."""
        if entries(model, names) > MAX_EXACT:
            for name in names:
                if not _in_layer(name, names, moments) and model.get_parameter(name).numel() > MAX_SCALARS:
                    yield name

    wanted = [name for names in groups.values() for name in alone(names)]
    steps = natural_steps(model, wanted, batches, objective, generator, damping)
    return {group: list(_split(model, names, moments, steps, damping)) for group, names in groups.items()}


def weighed(
    model: nn.Module, pieces: Sequence[Tangent], batches: Sequence[Batch], objective: Objective, damping: float
) -> tuple[float, Tangent]:
    """Return the score [nats] of the best direction within the span of pieces, and that direction."""
    judged = judge(model, pieces, batches, objective)
    slopes = judged.slopes.mean(0)
    weights = _weights(judged.matrix, slopes, damping)
    tangent: dict[str, Tensor] = {}
    for weight, piece in zip(weights.tolist(), pieces, strict=True):
        for name, value in piece.items():
            tangent[name] = tangent.get(name, torch.zeros_like(value)) + weight * value
    return float(weights @ slopes), tangent


def layer_step(model: nn.Module, path: str, moments: Moments, damping: float, bias: bool) -> dict[str, Tensor]:
    """Return the K-FAC step of a layer's weight, and of its bias where that is to move and there."""
    used = len(moments.A) - (moments.bias and not bias)
    step = natural_step(moments.A[:used, :used], moments.S, moments.G[:, :used], damping)
    return tangent_of(path, model.get_submodule(path), step, bias)


def entries(model: nn.Module, names: Sequence[str]) -> int:
    """Return how many entries parameters have."""
    return sum(model.get_parameter(name).numel() for name in names)


def _split(
    model: nn.Module,
    names: Sequence[str],
    moments: Mapping[str, Moments],
    steps: Mapping[str, Tensor],
    damping: float,
) -> Iterator[Tangent]:
    """A step for each layer and tensor; few entries one by one."""
    few = entries(model, names) <= MAX_EXACT
    for name in names:
        value = model.get_parameter(name)
        if few or (not _in_layer(name, names, moments) and value.numel() <= MAX_SCALARS):
            eye = torch.eye(value.numel(), dtype=value.dtype, device=value.device)
            yield from ({name: unit.view_as(value)} for unit in eye)
        elif not _in_layer(name, names, moments):
            yield {name: steps[name].to(value.dtype)}
        elif name.endswith(".weight"):
            path = name.removesuffix(".weight")
            yield layer_step(model, path, moments[path], damping, bias=f"{path}.bias" in names)


def _in_layer(name: str, names: Sequence[str], moments: Mapping[str, Moments]) -> bool:
    """Whether a parameter's step is that of a layer with moments, whose weight moves."""
    path, _, key = name.rpartition(".")
    return path in moments and key in ("weight", "bias") and f"{path}.weight" in names


def _weights(curvature: Tensor, slopes: Tensor, damping: float) -> Tensor:
    """(C + damping * diag C)^-1 s, whatever the scales of the directions are; nothing along those without curvature."""
    diagonal = curvature.diagonal()
    scale = torch.where(diagonal > 0, diagonal.clamp_min(torch.finfo(diagonal.dtype).tiny).rsqrt(), 0.0)
    scaled = (scale[:, None] * curvature * scale).nan_to_num(0.0, 0.0, 0.0)  # of a model that has diverged
    values, vectors = torch.linalg.eigh((scaled + scaled.mT) / 2)
    inverse = torch.where(values > ROUNDING * values.max(), 1 / (values + damping), 0.0)
    return scale * (vectors @ (inverse * (vectors.mT @ (scale * slopes))))
