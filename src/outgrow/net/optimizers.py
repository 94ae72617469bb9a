"""One optimizer, or several that share the parameters of a model, such as Muon for matrices and AdamW for the rest."""

from collections.abc import Iterable, Sequence

from torch.optim import Optimizer

from outgrow.errors import GrowthError

Optimizers = Optimizer | Sequence[Optimizer]
"""An optimizer, or several, each with parameters of its own."""


def each_of(optimizer: Optimizers | None) -> tuple[Optimizer, ...]:
    """Return every optimizer that was given, each the one that does the steps; none for None.

    Raises:
        GrowthError: What was given is no optimizer, and no sequence of them.

    Examples:
        >>> import torch
        >>> layer = torch.nn.Linear(2, 2)
        >>> optimizers = [torch.optim.SGD([layer.weight]), torch.optim.AdamW([layer.bias])]
        >>> [type(one).__name__ for one in each_of(optimizers)]
        ['SGD', 'AdamW']
    """
    given = (optimizer,) if isinstance(optimizer, Optimizer) else () if optimizer is None else optimizer
    if not isinstance(given, Sequence) or not all(isinstance(one, Optimizer) for one in given):
        kinds = ", ".join(type(one).__name__ for one in given) if isinstance(given, list | tuple) else ""
        got = f"{type(optimizer).__name__}{f' of {kinds}' if kinds else ''}"
        raise GrowthError(f"optimizer: expected a torch.optim.Optimizer, or several in a list, got {got}")
    return tuple(map(innermost, given))


def innermost(optimizer: Optimizer) -> Optimizer:
    """Return the optimizer that does the steps, where a framework has wrapped it."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = inner
    return optimizer


def owned_by(optimizers: Iterable[Optimizer]) -> set[int]:
    """Return the identities of the parameters that optimizers train."""
    return {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
