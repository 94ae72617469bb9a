"""Letters: not every output holds all that a name of a file or of a network may have."""

import sys
from typing import IO


def held(text: str, file: IO[str]) -> str:
    """Return a text with question marks for the letters that a file can't hold.

    Args:
        text: The text.
        file: Where it is to be written.

    Returns:
        What can be written there.

    >>> import io
    >>> held("größe", io.TextIOWrapper(io.BytesIO(), encoding="ascii")), held("größe", io.StringIO())
    ('gr??e', 'größe')
    """
    encoding = getattr(file, "encoding", None) or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)


def say(line: str) -> None:
    """Print a line on standard output, as far as that holds its letters.

    Args:
        line: The line.
    """
    print(held(line, sys.stdout))
