"""`NAME.py`, and `NAME.pt` beside it: the network as a Python file that imports torch alone, and its weights."""

import re
import runpy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from textwrap import wrap

import torch
from torch import Tensor, nn

from outgrow.errors import InputError
from outgrow.export.agreement import TOLERANCE, difference
from outgrow.export.bodies import ROOT
from outgrow.export.bodies import read as read_bodies
from outgrow.export.card import Card
from outgrow.export.classes import class_lines
from outgrow.export.forward import literal
from outgrow.export.graphs import graph_lines
from outgrow.export.source import WIDTH, Call, Source, UnwritableError, lines

_TRAINS = "train() and eval() do what they did in the original."
_DOES_NOT = (
    "Its forward is that of eval mode: layers such as BatchNorm still follow train(), but the original does more there."
)
_GRAPH = (
    "The forward pass is the exported graph in operators of ATen, in eval mode: dropout is off and norms use their "
    "running statistics, whatever train() says; so it is for prediction, not for more training."
)

_LOADING = '''

def build():
    """Return the network without its weights."""
{made}


def load(weights=Path(__file__).with_suffix(".pt")):
    """Return the network with its weights, in eval mode."""
    net = build()
    net.load_state_dict(torch.load(weights, weights_only=True))
    return net.eval()


if __name__ == "__main__":
    print(f"{{sum(p.numel() for p in load().parameters()):,}} parameters")
'''


def write(net: nn.Module, card: Card, x: Tensor, file: Path) -> None:
    """Write a network as module classes, or, where its code allows no such reading, as the graph of its forward pass.

    Args:
        net: The network, in eval mode.
        card: What is known of it, for the docstring.
        x: An example input of at least two rows.
        file: Where to; the weights go beside it.

    Raises:
        InputError: Its code can be read in neither form.
    """
    if _write_classes(net, card, file) and _agrees(net, x, file):
        return
    try:
        written, tensors = graph_lines(net, x)
    except UnwritableError as error:
        raise InputError(f"--format python can't write {error}; try --format torch-export") from error
    _write(file, _text(Call(ROOT), written, _GRAPH, card), tensors)


def _write_classes(net: nn.Module, card: Card, file: Path) -> bool:
    """Write a network as classes, if its code can be read so."""
    try:
        made, bodies = read_bodies(net)
    except UnwritableError:
        return False
    made, written = class_lines(made, bodies)
    trains = all(body.trains for body in bodies.values())
    _write(
        file,
        _text(made, written, _TRAINS if trains else _DOES_NOT, card),
        {**dict(net.named_parameters()), **dict(net.named_buffers())},
    )
    return True


def _agrees(net: nn.Module, x: Tensor, file: Path) -> bool:
    try:
        return difference(net, read(file, net), [x]) <= TOLERANCE
    except Exception:  # whatever code that was read wrongly raises
        return False


def read(file: Path, net: nn.Module) -> Callable[[Tensor], Tensor]:
    """Run the file that was written.

    Args:
        file: What `write` wrote.
        net: Not needed.

    Returns:
        What its network computes.
    """
    loaded: Callable[[Tensor], Tensor] = runpy.run_path(str(file))["load"]()
    return loaded


def _write(file: Path, text: Sequence[str], tensors: Mapping[str, Tensor]) -> None:
    torch.save({name: tensor.detach().clone() for name, tensor in tensors.items()}, file.with_suffix(".pt"))
    file.write_text("\n".join(text) + "\n", encoding="utf-8")


def _text(made: Source, written: Sequence[str], modes: str, card: Card) -> list[str]:
    """The lines of a file.

    Args:
        made: Source that makes the network.
        written: The lines of its classes.
        modes: What is true of train and eval mode.
        card: What is known of the network.

    Returns:
        The lines.
    """
    used = "\n".join([*written, *lines(made, 4)])
    names = Call("", tuple(map(literal, card.classes)))
    return [
        *_docstring(card, modes),
        "",
        *(["import math"] if re.search(r"\bmath\.", used) else []),
        "from pathlib import Path",
        "",
        "import torch",
        *(["import torch.nn.functional as F"] if re.search(r"\bF\.", used) else []),
        "from torch import nn",
        *(["", *lines(names, 0, "CLASSES = ")] if card.classes else []),
        *written,
        *_LOADING.format(made="\n".join(lines(made, 4, "return "))).rstrip().splitlines(),
    ]


def _docstring(card: Card, modes: str) -> list[str]:
    network = card.network if re.fullmatch(r"[\w.:]+", card.network) else ROOT
    first = wrap(f'"""{network} with {card.parameters:,} parameters, grown by outgrow.', WIDTH)
    return [*first, "", *wrap(card.sentence(), WIDTH), "", *wrap(modes, WIDTH), '"""']
