"""`outgrow export`: a saved size as a file that needs no outgrow."""

import re
from typing import TYPE_CHECKING

from outgrow.errors import InputError
from outgrow.export import formats
from outgrow.export.batches import batches_of
from outgrow.export.card import Card
from outgrow.export.formats import Format, format_of
from outgrow.show.letters import say
from outgrow.train.family import Family
from outgrow.train.size import Size
from outgrow.values import count, seconds

if TYPE_CHECKING:
    from outgrow.cli import Export


def export(options: "Export") -> int:
    """Run `outgrow export`.

    Args:
        options: What the command line said.

    Returns:
        The exit code, 0.

    Raises:
        InputError: There is no such run, size or format, or the file can't be written; nothing is left behind then.
    """
    form = format_of(options.format)
    family = Family(options.run)
    size = _size(family, options)
    file = options.out if options.out is not None else family.path / "export" / _name(size, form)
    net = size.load(options.model)
    card = Card.of(family, size)
    done = formats.export(net, card, batches_of(family), form, file, overwrite=options.overwrite)
    agreement = "not compared, since onnxruntime is not installed"
    if done.difference is not None:
        agreement = f"outputs agree to {done.difference:.0e}" if done.difference else "outputs agree exactly"
    for written, size_in_bytes in done.files.items():
        say(f"{written}  {size_in_bytes:,} bytes, {size.params:,} parameters, {agreement}")
    if done.lost:
        say(done.lost)
    return 0


def _size(family: Family, options: "Export") -> Size:
    limits = {
        "--max-params": options.max_params,
        "--max-flops": options.max_flops,
        "--max-latency": options.max_latency,
        "--min-accuracy": options.min_accuracy,
    }
    given = [name for name, value in limits.items() if value is not None]
    if options.size is not None and given:
        raise InputError(f"--size {options.size} and {given[0]}: expected a name or limits, not both")
    if options.size is not None:
        return family[options.size]
    return family.choose(
        max_params=None if options.max_params is None else count(options.max_params, "--max-params"),
        max_flops=None if options.max_flops is None else count(options.max_flops, "--max-flops"),
        max_latency=None if options.max_latency is None else seconds(options.max_latency, "--max-latency"),
        min_accuracy=options.min_accuracy,
        seed=options.model,
    )


def _name(size: Size, form: Format) -> str:
    """The name of a file; that of a module is one that can be imported."""
    name = re.sub(r"\W", "_", f"size_{size.name}") if form.name == "python" else re.sub(r"[^\w.-]", "_", size.name)
    return f"{name}{form.endings[0]}"
