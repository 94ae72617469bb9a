"""Activations: modules that are a function of each entry by itself, found by trying."""

import copy
from itertools import chain

import torch
from torch import Tensor, nn

from outgrow.models.rational import Rational


def is_activation(module: nn.Module) -> bool:
    """Whether a module is a function of each entry by itself, neither the identity nor affine.

    Args:
        module: Any module; a copy of it is tried on noise.

    Returns:
        True for those with learned coefficients, whatever these are at the moment.

    Examples:
        >>> [is_activation(module) for module in (nn.Tanh(), nn.PReLU(3), nn.Identity(), nn.Softmax(-1))]
        [True, True, False, False]
    """
    if next(chain(module.children(), module.buffers()), None) is not None:
        return False
    if isinstance(module, (nn.PReLU, Rational)):
        return True
    if type(module).forward is nn.Module.forward or any(p.ndim > 1 for p in module.parameters()):
        return False
    try:
        return _curves_by_entry(copy.deepcopy(module).eval())
    except Exception:  # whatever doesn't take a vector is something else
        return False


@torch.no_grad()
def _curves_by_entry(module: nn.Module) -> bool:
    """Whether the order and the shape of entries make no difference, and sums are not kept."""
    u, v = _noise(torch.Size((2, 24)), next(module.parameters(), torch.empty(0))).mul(2)
    at_u, at_v, folded, both, at_0 = (
        module.forward(x.clone()) for x in (u, v, u.view(2, 3, 4), u + v, torch.zeros_like(u))
    )
    by_entry = torch.equal(folded.flatten(), at_u) and torch.equal(module.forward(u.flip(0)).flip(0), at_u)
    return by_entry and not torch.allclose(at_u + at_v, both + at_0, atol=1e-4)


@torch.no_grad()
def is_idempotent(activation: nn.Module, x: Tensor) -> bool:
    """Whether an activation changes nothing a second time.

    Args:
        activation: A copy of it is tried.
        x: What came out of it once; it is tried on this and on noise of this shape.

    Returns:
        True for ReLU and its clipped kin.

    Examples:
        >>> [is_idempotent(module, torch.ones(2)) for module in (nn.ReLU6(), nn.GELU())]
        [True, False]
    """
    copied = copy.deepcopy(activation).eval()
    return all(torch.equal(copied.forward(y.clone()), y) for y in (x, copied.forward(_noise(x.shape, x).mul(3))))


def _noise(shape: torch.Size, like: Tensor) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(like)
