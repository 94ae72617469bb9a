"""Chains of plain layers: behind an activation, a layer that starts as the identity can go, and an activation."""

from collections.abc import Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from outgrow.net.activations import is_idempotent
from outgrow.net.calls import Call, Leaf, observe, run
from outgrow.net.edit import Insertion
from outgrow.net.kernels import fast_path
from outgrow.net.place import NewLayer, Place
from outgrow.net.preserve import change, tolerance
from outgrow.net.surgery import insert_
from outgrow.net.survey import Survey, is_block


def chain_places(seen: Survey) -> list[Place]:
    """Find every chain place: where something that hands its input on is called once and changes no output.

    Args:
        seen: The model.

    Returns:
        The places in the order of their calls.
    """
    spots = _spots(seen)
    if not spots or _all_stay(seen, spots):  # in one forward pass; only where that fails, one by one
        return spots
    return [spot for spot in spots if _all_stay(seen, [spot])]


def find_chain_place(seen: Survey, name: str) -> Place | None:
    """Find the place behind an activation, or the last one of a module that has some.

    Args:
        seen: The model.
        name: Path of the activation or of the module.

    Returns:
        A place where a layer can go; None where there is none.
    """
    spots = [spot for spot in _spots(seen) if name in (spot.name, spot.parent)]
    return next((spot for spot in reversed(spots) if _all_stay(seen, [spot])), None)


def _spots(seen: Survey) -> list[Place]:
    """Activations behind linear layers and convolutions that a layer could follow."""
    spots = []
    for at, (module, _, _) in enumerate(seen.forward.leaves):
        call = seen.forward.calls.get(module)
        if call is None or module in seen.forward.unlearned or not _maps_one_tensor(seen, module, call):
            continue
        if (recipe := _new_layer(seen, at, call)) is not None:
            name = seen.names[module]
            parent, _, child = name.rpartition(".")
            spots.append(Place(name, "chain", parent, child, _in_words(module, recipe), recipe=recipe))
    return spots


def _maps_one_tensor(seen: Survey, module: nn.Module, call: Call) -> bool:
    """Whether an activation within a model is called once, with a tensor and nothing else."""
    within = module is not seen.model and not is_block(module)
    return within and seen.forward.counts[module] == 1 and call.keeps_shape and len(call.args) == 1 and not call.kwargs


def _new_layer(seen: Survey, at: int, call: Call) -> NewLayer | None:
    """What could follow the activation that was called as the leaf `at`; None where its channels are not clear."""
    x, leaves = call.result, seen.forward.leaves
    behind = next((i for i in range(at - 1, -1, -1) if _is_layer(leaves[i])), None)
    if x is None or behind is None or _is_output(seen, x):
        return None
    layer, _, out = leaves[behind]
    kernel = tuple(size - 1 + size % 2 for size in layer.kernel_size) if isinstance(layer, _ConvNd) else ()
    channel = 1 if kernel else -1
    if x.ndim != len(out) or x.shape[channel] != out[channel]:
        return None
    around = (leaf.module for leaf in (*leaves[behind + 1 : at], *leaves[at + 1 : at + 2]))
    norm = next((module for module in around if isinstance(module, _BatchNorm)), None)
    if norm is not None and not kernel and x.ndim != 2:
        return None
    path = "" if norm is None else seen.names[norm]
    return NewLayer(seen.names[layer], int(x.shape[channel]), kernel, path, is_idempotent(leaves[at].module, x))


def _is_output(seen: Survey, x: Tensor) -> bool:
    """Whether a tensor is an output of the model, whose range is not to change."""
    return any(x.shape == out.shape and torch.equal(x, out) for out in seen.forward.outputs)


def _is_layer(leaf: Leaf) -> bool:
    """Whether a call was one of a convolution, or of something that maps the last dimension like a linear layer."""
    module, before, after = leaf
    weight = getattr(module, "weight", None)
    if isinstance(module, _ConvNd):
        return len(after) == len(module.kernel_size) + 2
    if not isinstance(weight, Tensor) or weight.ndim != 2 or not weight.is_floating_point() or not before:
        return False
    return before[:-1] == after[:-1] and (before[-1], after[-1]) in (tuple(weight.shape), tuple(reversed(weight.shape)))


def _in_words(activation: nn.Module, recipe: NewLayer) -> str:
    last = type(activation).__name__ if recipe.repeats else "Rational"
    n, sizes = recipe.channels, "x".join(map(str, recipe.kernel))
    layer = f"Conv{len(recipe.kernel)}d({n}, {n}, {sizes})" if sizes else f"Linear({n}, {n})"
    return f"x + BatchNorm({layer}) at zero gain and {last}" if recipe.norm else f"{layer} at the identity and {last}"


def _all_stay(seen: Survey, spots: Sequence[Place]) -> bool:
    """Whether something that hands its input on is called once at each spot and changes no output."""
    order = {path: at for at, path in enumerate(seen.names.values())}
    late_first = sorted(spots, key=lambda spot: order[spot.name], reverse=True)  # no child moves up before its turn
    probes = [_Probe() for _ in spots]
    try:
        with ExitStack() as undo:
            for spot, probe in zip(late_first, probes, strict=True):
                undo.callback(insert_(seen.model, Insertion(spot.parent, spot.child, (probe,))))
            moved = change(seen.forward.outputs, observe(seen.model, seen.example).outputs)
            with fast_path(True):
                run(seen.model, seen.example)
    except Exception:
        return False
    return moved <= tolerance(seen.model) and all(probe.calls == 2 for probe in probes)


class _Probe(nn.Module):
    """Hands its input on, and counts its calls by itself: torch's fused encoder layers call children only for hooks."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x
