"""Warnings that point at the user's own line."""

import os
import sys
import warnings
from pathlib import Path

import torch

_OURS = tuple(f"{folder}{os.sep}" for folder in (Path(__file__).parents[1], Path(torch.__file__).parent))


def warn(message: str) -> None:
    """Warn at the innermost line that is neither outgrow's nor torch's, which wraps what it decorates.

    Where there is none, at the outermost line.

    Args:
        message: What to say.

    Examples:
        >>> with warnings.catch_warnings(record=True, action="always") as caught:
        ...     warn("look here")
        >>> caught[0].filename == warn.__code__.co_filename
        False
    """
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_OURS):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)
