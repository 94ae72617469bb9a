"""The survey of a model: one forward pass of it, to try places on."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import nn

from outgrow.errors import GrowthError
from outgrow.net.activations import is_activation
from outgrow.net.calls import Forward, observe
from outgrow.net.inputs import Example, check_kind, misfit
from outgrow.net.preserve import frozen_state, lively


@dataclass(frozen=True, eq=False)
class Survey:
    """A model in eval mode and one forward pass of it.

    Args:
        model: The model.
        example: What it was called on: the user's example, or noise in place of zeros.
        forward: What was seen.
        names: The first path of each module.
        zeros: For each kind of block, the zeros that were found for one of them.
    """

    model: nn.Module
    example: Example
    forward: Forward
    names: dict[nn.Module, str]
    zeros: dict[tuple[type, tuple[str, ...]], tuple[str, ...]] = field(default_factory=dict)


@contextmanager
def survey(model: nn.Module, example: Example) -> Iterator[Survey]:
    """Run a model once to see how its modules are called; modes, buffers and the random state are put back at the end.

    Args:
        model: Any module.
        example: One input.

    Yields:
        What was seen, to try places on.

    Raises:
        GrowthError: The model is scripted, compiled or wrapped, or does not run on this example.
    """
    check_kind(model)
    with frozen_state(model):
        model.eval()
        names = {module: path for path, module in model.named_modules()}
        yield Survey(model, *_first_pass(model, example), names)


def is_block(module: nn.Module) -> bool:
    """Whether a module has weights and is more than one layer of torch's own or an activation."""
    alone = next(module.children(), None) is None
    single = alone and (type(module).__module__.startswith("torch.nn.") or is_activation(module))
    return not single and next(module.parameters(), None) is not None


def _first_pass(model: nn.Module, example: Example) -> tuple[Example, Forward]:
    """Run a model, on noise in place of zeros where it takes that."""
    wanted = {module for module in model.modules() if is_activation(module)}
    for module in model.modules():
        if isinstance(module, (nn.Sequential, nn.ModuleList)):
            wanted |= {child for child in module if is_block(child)}
    example = lively(model, example)
    try:
        return example, observe(model, example, wanted)
    except Exception as error:
        raise GrowthError(misfit(model, error)) from error
