"""Torch kept from telling what it does while it exports, and what goes wrong told in one line."""

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Hold back logs, warnings and what goes to standard error; what goes wrong is raised, and says it all."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def reason_of(error: BaseException) -> str:
    r"""Return the first line of what an error was caused by, without colours.

    Examples:
        >>> reason_of(ValueError("\x1b[96mno such op\x1b[0m\nmore")), reason_of(KeyError())
        ('no such op', 'KeyError')
    """
    while error.__cause__ is not None:
        error = error.__cause__
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip()
    return text.splitlines()[0] if text else type(error).__name__
