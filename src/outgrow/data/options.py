"""What a user can ask of a reader."""

from dataclasses import dataclass

from outgrow.data.dataset import Task
from outgrow.errors import InputError

_TASKS: dict[str, Task] = {"classification": "classification", "regression": "regression"}


@dataclass(frozen=True)
class Options:
    """How to read a source.

    Attributes:
        target: The column of a table to predict.
        task: What to treat the target as; recognised from its values if None.
        seed: Of the validation part.
        validation: Its share of what is not test.
    """

    target: str | None = None
    task: Task | None = None
    seed: int = 0
    validation: float = 0.1


def options(target: str | None, task: str | None, seed: int, validation: float) -> Options:
    """Check what the user asked for.

    Args:
        target: The column of a table to predict.
        task: "classification", "regression" or None.
        seed: Of the validation part.
        validation: Its share of what is not test.

    Returns:
        The same, typed.

    Raises:
        InputError: An option has a value that it can't have.
    """
    if task is not None and task not in _TASKS:
        raise InputError(f"task {task!r}: expected 'classification' or 'regression'")
    if not 0 < validation < 1:
        raise InputError(f"validation {validation}: expected a share between 0 and 1, such as 0.1")
    if not 0 <= seed < 2**63:
        raise InputError(f"seed {seed}: expected 0 to 2^63 - 1")
    return Options(target, _TASKS[task] if task else None, seed, validation)
