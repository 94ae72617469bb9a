"""Least-squares compensation: the weights that stay take over what removed inputs contributed to a layer.

A layer reads features a: [features] of a row for a linear layer, [channels] of a position for a convolution. Of them
a_r go and a_k stay. With C the covariance of a on a batch, and a ridge of `RIDGE` times each kept feature's variance
against collinear ones,

    B = argmin E ||a_r - B a_k - b||^2 + ridge = C_rk (C_kk + RIDGE diag C_kk)^-1      [removed, kept]

and `W_k' = W_k + s W_r B`, the same B for every tap of a kernel; `bias' = bias + E[y_r - s d]`. Here y_r is what the
removed features contributed to the output, computed as the layer computes it, padding and stride included, and d what
`W_r B` gives in its place. The step s of each output, in 0..1, minimises `Var(y_r - s d)`.

A linear layer and a kernel of one tap have s = 1: this is exact least squares, `E ||W_r (a_r - B a_k - b)||^2`, for
every W_r at once. Where a kernel has several taps, what B leaves over may add up between positions: s keeps that from
being more than without compensation. Where zeros are padded, the constant is the best one over all positions, and exact
only inside. A layer without bias can't take a constant over: nothing is centred there.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from outgrow.errors import GrowthError
from outgrow.net.axis import Member
from outgrow.net.inputs import Example
from outgrow.net.preserve import outputs
from outgrow.net.surgery import tensors_of

RIDGE = 1e-10  # of each kept feature's variance; all sums are in float64
_ROWS = 1 << 14  # rows that are turned to float64 at once

Call = tuple[nn.Module, Tensor]
"""A layer and what it read."""


def regression(features: Sequence[Tensor], kept: Tensor, removed: Tensor, *, constant: bool) -> Tensor:
    """Return the coefficients that tell removed features from kept ones best, in float64.

    Args:
        features: Rows of features [rows, features], in one or several parts.
        kept: Which features stay [kept].
        removed: Which go [removed].
        constant: Whether a constant may be added to the prediction, so that only deviations from the mean count.

    Returns:
        B [removed, kept]: `a_r = B a_k` plus the constant, with the least mean squared error.

    Examples:
        >>> a = torch.randn(50, 2, dtype=torch.float64)
        >>> rows = torch.stack([a[:, 0], a[:, 1], 2 * a[:, 0] - a[:, 1] + 7], 1)
        >>> regression([rows], torch.tensor([0, 1]), torch.tensor([2]), constant=True).round(decimals=4)
        tensor([[ 2., -1.]], dtype=torch.float64)
    """
    moments = second_moments(features, centred=constant)
    kept, removed = kept.to(moments.device), removed.to(moments.device)
    scale = moments.diagonal()[kept].sqrt()
    scale = torch.where(scale > 0, scale, 1.0)  # a feature that never changes tells nothing
    correlations = moments[kept][:, kept] / scale.outer(scale)
    correlations.diagonal().add_(RIDGE)
    right = moments[kept][:, removed] / scale[:, None]
    return (torch.cholesky_solve(right, torch.linalg.cholesky(correlations)) / scale[:, None]).T


def second_moments(features: Sequence[Tensor], *, centred: bool) -> Tensor:
    """Return the mean of `a a^T` over all rows [features, features] in float64, of deviations from the mean if centred.

    Args:
        features: Rows of features [rows, features], in one or several parts.
        centred: Whether the mean is taken off first.

    Returns:
        The moments.
    """
    count = sum(len(part) for part in features)
    mean = sum(part.sum(0, dtype=torch.float64) for part in features) / count
    total = features[0].new_zeros(2 * features[0].shape[1:], dtype=torch.float64)
    for part in features:
        for rows in part.split(_ROWS):
            rows = rows.double() - mean if centred else rows.double()
            total += rows.T @ rows
    return total / count


def step_size(wanted: Tensor, given: Tensor, *, constant: bool) -> Tensor:
    """Return the multiple s of `given`, in 0..1, that comes nearest to `wanted`, for each output.

    Args:
        wanted: Rows of outputs [rows, outputs].
        given: The same of what is to replace them [rows, outputs].
        constant: Whether a constant may be added.

    Returns:
        s [outputs], the minimiser of `E (wanted - s given)^2`, of the variance with a constant; 0 where `given` is 0.

    Examples:
        >>> step_size(torch.tensor([[1.0], [-1.0]]), torch.tensor([[4.0], [-4.0]]), constant=False)
        tensor([0.2500])
    """
    if constant:
        wanted, given = wanted - wanted.mean(0), given - given.mean(0)
    size = (given * given).sum(0)
    best = (wanted * given).sum(0) / torch.where(size > 0, size, 1.0)
    return best.clamp(0.0, 1.0)


@torch.no_grad()
def compensation(model: nn.Module, gone: Sequence[tuple[Member, Tensor]], inputs: Example) -> dict[str, Tensor]:
    """Find weights and biases that make up for inputs which are about to be removed from layers.

    Layers are linear ones and convolutions, also of the user's own classes where trying shows that each column of the
    weight reads one feature, and that the output is the sum of what columns read. A weight is left as it is where
    anything else has it too, where none of its layers is called as a module, since nobody sees then what they read, and
    where it is that of a convolution in groups.

    Args:
        model: The model before the removal; it is not changed.
        gone: For each weight that reads the axis, what goes: (member, places along its dimension [removed]).
        inputs: A batch of real data.

    Returns:
        By name, the weights and biases that change, in the shapes that they have now.

    Raises:
        GrowthError: The model can't run on the inputs, or a layer reads values that are not finite.
    """
    present = tensors_of(model)
    names = {id(tensor): name for name, tensor in present.items()}
    readers = [_readers(model, present[member.tensor], member.dim) for member, _ in gone]
    calls = _calls(model, [layer for layers in readers for layer in layers], inputs)
    found: dict[str, Tensor] = {}
    for (member, places), layers in zip(gone, readers, strict=True):
        read = [(layer, values) for layer, values in calls if layer in layers]
        if not read:
            continue
        if not all(values.numel() and bool(values.isfinite().all()) for _, values in read):
            raise GrowthError(f"compensate: expected at least one example and finite values in '{member.module}'")
        biases = {names[id(b)]: b for layer, _ in read if (b := layer._parameters.get("bias")) is not None}
        constant = all(layer._parameters.get("bias") is not None for layer in layers) and all(
            owner in layers for bias in biases.values() for owner in _owners(model, bias)
        )
        weight = present[member.tensor]
        if not all(_reads_columns(call, weight, member.dim, places) for call in read):
            continue
        added, shift = _corrections(weight, member.dim, places, read, constant=constant)
        found[member.tensor] = (weight + added).to(weight.dtype)
        for name, bias in biases.items() if constant else ():
            found[name] = (found.get(name, bias) + shift).to(bias.dtype)
    return found


def _readers(model: nn.Module, weight: Tensor, dim: int) -> list[nn.Module]:
    """The layers with this weight that read along the dimension; none where anything else has it too."""
    owners = _owners(model, weight)
    return owners if all(_reads(owner, weight, dim) for owner in owners) else []


def _owners(model: nn.Module, tensor: Tensor) -> list[nn.Module]:
    return [m for m in model.modules() if any(t is tensor for t in (*m._parameters.values(), *m._buffers.values()))]


def _reads(owner: nn.Module, weight: Tensor, dim: int) -> bool:
    if owner._parameters.get("weight") is not weight or getattr(owner, "groups", 1) != 1:
        return False
    if isinstance(owner, nn.modules.conv._ConvNd):
        return dim == (0 if owner.transposed else 1)
    if type(owner) is nn.Linear:
        return dim == 1
    return weight.ndim == 2 and set(owner._parameters) <= {"weight", "bias"}


def _reads_columns(call: Call, weight: Tensor, dim: int, places: Tensor) -> bool:
    """Whether the output is the sum of what each column reads of its own feature; torch's own layers are known."""
    layer, values = call
    if type(layer) is nn.Linear or type(layer).__module__ == nn.Conv2d.__module__:
        return True
    channels = values.ndim - 1 - _positions(layer)
    if not values.is_floating_point() or values.shape[channels] != weight.shape[dim]:
        return False
    leaving, seen = (_only(tensor, at, places) for tensor, at in ((weight, dim), (values, channels)))
    try:
        all_of_it, left = _alone(call, weight.double()), _alone(call, leaving)
        stays, through = _alone(call, weight.double() - leaving), _alone((layer, seen), weight.double())
    except RuntimeError:  # such as one that can't run in float64
        return False
    return torch.allclose(left + stays, all_of_it) and torch.allclose(left, through)


def _calls(model: nn.Module, layers: Sequence[nn.Module], inputs: Example) -> list[Call]:
    """What each layer reads in eval mode, call by call."""
    calls: list[Call] = []

    def note(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append((layer, (args[0] if args else kwargs["input"]).detach().clone()))

    hooks = [layer.register_forward_pre_hook(note, with_kwargs=True) for layer in dict.fromkeys(layers)]
    try:
        outputs(model, inputs, training=False)
    except Exception as error:
        raise GrowthError(
            f"compensate: {type(model).__name__} fails on these inputs: {error}; expected a batch of real data in the "
            f"form of `example`"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _corrections(
    weight: Tensor, dim: int, places: Tensor, calls: Sequence[Call], *, constant: bool
) -> tuple[Tensor, Tensor]:
    """What to add to a weight [shape of the weight] and to its layers' biases [outputs], in float64."""
    stays = torch.ones(weight.shape[dim], dtype=torch.bool)
    stays[places] = False
    kept, removed = stays.nonzero().flatten().to(weight.device), places.to(weight.device)
    coefficients = regression([_rows(layer, values) for layer, values in calls], kept, removed, constant=constant)
    taken = weight.double().index_select(dim, removed).movedim(dim, -1) @ coefficients
    leaving = _only(weight, dim, places)
    added = torch.zeros_like(leaving).index_copy(dim, kept, taken.movedim(-1, dim))
    wanted, given = (torch.cat([_alone(call, part) for call in calls]) for part in (leaving, added))
    step = step_size(wanted, given, constant=constant)
    shape = [-1 if d == 1 - dim else 1 for d in range(weight.ndim)]
    return step.view(shape) * added, wanted.mean(0) - step * given.mean(0)


def _only(tensor: Tensor, dim: int, places: Tensor) -> Tensor:
    """A tensor in float64 with zeros at all other places along a dimension."""
    places = places.to(tensor.device)
    return torch.zeros_like(tensor, dtype=torch.float64).index_copy(
        dim, places, tensor.double().index_select(dim, places)
    )


def _positions(layer: nn.Module) -> int:
    """How many dimensions of positions lie behind the channels that a layer reads."""
    return len(layer.kernel_size) if isinstance(layer, nn.modules.conv._ConvNd) else 0


def _rows(layer: nn.Module, values: Tensor) -> Tensor:
    """What a layer reads or hands out, as rows of features or channels [rows, features]."""
    values = values.movedim(-1 - _positions(layer), -1)
    return values.reshape(-1, values.shape[-1])


def _alone(call: Call, weight: Tensor) -> Tensor:
    """What a layer makes of what it reads with another weight and no bias, in float64 [rows, outputs]."""
    layer, values = call
    tensors = {key: torch.zeros_like(t, dtype=torch.float64) for key, t in layer.named_parameters(recurse=False)}
    return _rows(layer, functional_call(layer, {**tensors, "weight": weight}, (values.double(),)))
