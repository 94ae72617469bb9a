"""A stop: what a command says where it ends before its work is done."""

import sys
from pathlib import Path

from outgrow.errors import InputError
from outgrow.show.report import write_report


def tell_stop(why: str, kept: str, run: Path) -> None:
    """Say why a command stopped, what is kept, and where the report is, unless there is nothing to report yet.

    Args:
        why: What stopped it.
        kept: What is kept, and how to go on.
        run: The run folder.
    """
    try:
        report = f"; report: {write_report(run)}"
    except InputError:
        report = ""
    print(f"outgrow: {why}; {kept}{report}", file=sys.stderr)
