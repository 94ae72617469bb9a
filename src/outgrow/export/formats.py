"""The formats, and how one of them is written: aside, read back, compared, moved into place."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from outgrow.errors import InputError
from outgrow.export.agreement import TOLERANCE, difference
from outgrow.export.aside import aside, check_target
from outgrow.export.card import Card
from outgrow.export.silence import reason_of


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Args:
        name: What the command line calls it.
        module: The module with its `write(net, card, x, file)`, which may say what is lost, and `read(file, net)`.
        endings: What its files may end in, the default first.
    """

    name: str
    module: str
    endings: tuple[str, ...]


FORMATS = {
    form.name: form
    for form in (
        Format("state-dict", "state_dict", (".safetensors", ".pt")),
        Format("torch-export", "torch_export", (".pt2",)),
        Format("onnx", "onnx", (".onnx",)),
        Format("python", "python", (".py",)),
    )
}


@dataclass(frozen=True)
class Exported:
    """What was written.

    Args:
        files: Each file and its size in bytes.
        difference: Largest difference of what was read back, see `outgrow.export.agreement`; None where nothing that
            reads it is installed.
        lost: What the file can't do that the network can; empty for nothing.
    """

    files: dict[Path, int]
    difference: float | None
    lost: str = ""


def format_of(name: str) -> Format:
    """Return the format of a name.

    Raises:
        InputError: There is none.
    """
    if name not in FORMATS:
        raise InputError(f"--format {name}: expected one of {', '.join(FORMATS)}")
    return FORMATS[name]


def export(
    net: nn.Module, card: Card, batches: Sequence[Tensor], form: Format, file: Path, *, overwrite: bool = False
) -> Exported:
    """Write a network to a file that needs no outgrow.

    Args:
        net: The network, in eval mode.
        card: What is known of it.
        batches: Inputs to compare outputs on, the first with at least two rows.
        form: The format.
        file: Where to.
        overwrite: Replace files that are there.

    Returns:
        The files.

    Raises:
        InputError: The file can't be written there, the format can't hold the network, or what was read back computes
            something else; nothing is left behind then.
    """
    if file.suffix not in form.endings and not file.is_dir():
        raise InputError(f"--out {file}: expected a file that ends in {' or '.join(form.endings)} for {form.name}")
    check_target(file, overwrite)
    module: Any = import_module(f"outgrow.export.{form.module}")
    with aside(file, overwrite) as part:
        lost: str | None = module.write(net, card, batches[0], part)
        try:
            read: Callable[[Tensor], Tensor] | None = module.read(part, net)
            found = None if read is None else difference(net, read, batches)
        except Exception as error:  # whatever reads it raises
            raise InputError(
                f"{file} is not written: as {form.name} it can't be read back: {reason_of(error)}"
            ) from error
        if found is not None and not found <= TOLERANCE:
            raise InputError(
                f"{file} is not written: as {form.name} the outputs differ by {found:.0e} of how far they are spread, "
                f"expected at most {TOLERANCE:.0e}"
            )
        written = {file.parent / each.name: each.stat().st_size for each in sorted(part.parent.iterdir())}
    return Exported(written, found, lost or "")
