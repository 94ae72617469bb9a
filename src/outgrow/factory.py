"""A model of the user's own, named on the command line as `package.module:factory`, and an example to call it with."""

import importlib
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from outgrow.errors import InputError


def imported(name: str, what: str, such_as: str) -> Any:
    """Import what a user names on the command line; modules are also found in the current folder, from then on.

    Args:
        name: `package.module:attribute`.
        what: What is expected behind the colon, in one word.
        such_as: A name as it should be.

    Returns:
        What is there.

    Raises:
        InputError: The name has another form, or there is no such module or attribute, or the module can't be imported.

    Examples:
        >>> imported("torch.nn:Identity", "factory", "mymodels.nets:small")
        <class 'torch.nn.modules.linear.Identity'>
    """
    module, colon, attribute = name.partition(":")
    if not colon or not module or not attribute:
        raise InputError(f"{name}: expected package.module:{what}, such as {such_as}")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except SystemExit as error:
        raise InputError(
            f"{name}: importing {module} ends the program, as a script does; put what it does as one behind "
            f"if __name__ == '__main__'"
        ) from error
    except Exception as error:  # whatever the user's module does when it is imported
        kind = "" if isinstance(error, ImportError | AttributeError) else f"{type(error).__name__}: "
        said = " ".join(f"{kind}{error}".split())
        raise InputError(f"{name}: {said}; run it where 'import {module}' works") from error
    finally:
        with suppress(ValueError):  # the module may have taken it out
            sys.path.remove(here)
        if here not in sys.path:
            sys.path.append(here)  # for what a factory imports when it is called, behind all else
    return found


def model_of(name: str) -> tuple[nn.Module, Any]:
    """Import a factory and call it; modules are also found in the current folder.

    Args:
        name: `package.module:factory`: a function or class that needs no arguments, or a model.

    Returns:
        The model, and the example where the factory returns a pair of both, else None.

    Raises:
        InputError: There is no such module or name, or it gives no model.

    Examples:
        >>> model_of("torch.nn:Identity")
        (Identity(), None)
    """
    found = imported(name, "factory", "mymodels.nets:small")
    try:
        made = found if isinstance(found, nn.Module) else found()
    except (Exception, SystemExit) as error:  # whatever the user's code does
        raise InputError(
            f"{name}: expected a function or class to call with nothing; it raised {type(error).__name__}: "
            f"{first_line(error)}"
        ) from error
    model, example = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(model, nn.Module):
        raise InputError(
            f"{name}: expected a torch.nn.Module, or a pair of one and its example, got {type(model).__name__}"
        )
    return model, example


def example_of(texts: Sequence[str]) -> Any:
    """Read an example from shapes, such as `1x3x32x32`, `ids=1x16:50` (whole numbers below 50), for each input one.

    Args:
        texts: One for each input; with names for keyword inputs, without for positional ones.

    Returns:
        A tuple of tensors, or a dict of them: normal numbers, or whole ones where a bound is given.

    Raises:
        InputError: A text is no shape, or only some have names.

    Examples:
        >>> example_of(["1x3x8x8"])[0].shape
        torch.Size([1, 3, 8, 8])
        >>> example_of(["input_ids=2x7:50"])["input_ids"].dtype
        torch.int64
    """
    inputs: dict[str, Tensor] = {}
    generator = torch.Generator().manual_seed(0)
    for place, text in enumerate(texts):
        match = re.fullmatch(r"(?:([^\W\d]\w*)=)?(\d+(?:x\d+)*)(?::([1-9]\d*))?", text.strip())
        if not match:
            raise InputError(
                f"--example {text}: expected a shape such as 1x3x32x32, with a bound for whole numbers (1x16:50), and "
                f"a name for a keyword input (input_ids=1x16:50)"
            )
        shape = [int(size) for size in match[2].split("x")]
        bound = int(match[3]) if match[3] else None
        try:
            values = torch.randn(shape, generator=generator)
            numbers = values if bound is None else torch.randint(bound, shape, generator=generator)
        except (ArithmeticError, MemoryError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(f"--example {text}: torch can't make it: {first_line(error)}") from error
        inputs[match[1] or str(place)] = numbers
    if len(inputs) < len(texts):
        raise InputError("--example: expected a different name for each input")
    named = [not name.isdigit() for name in inputs]
    if any(named) and not all(named):
        raise InputError("--example: expected names for all inputs or for none")
    return inputs if all(named) and named else tuple(inputs.values())


def first_line(error: BaseException) -> str:
    r"""Return the first line of what an error says.

    Examples:
        >>> first_line(ValueError("no such size\nat all")), first_line(AssertionError())
        ('no such size', 'no message')
    """
    return next(iter(str(error).strip().splitlines()), "no message")
