"""`NAME.py`, and `NAME.pt` beside it: the network as a Python file that imports torch alone, and its weights."""

import re
import runpy
from collections.abc import Mapping, Sequence
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
from outgrow.export.silence import reason_of
from outgrow.export.source import WIDTH, Call, Source, UnwritableError, lines
from outgrow.export.state_dict import write_tensors

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
{built}


def load(weights=Path(__file__).with_suffix(".pt")):
    """Return the network with its weights, in eval mode."""
    net = build()
    net.load_state_dict(torch.load(weights, weights_only=True))
    return net.eval()


if __name__ == "__main__":
    print(f"{{sum(p.numel() for p in load().parameters()):,}} parameters")
'''


_FREEZING = """
    for name in FROZEN:
        net.get_parameter(name).requires_grad_(False)
    return net"""


def write(net: nn.Module, card: Card, x: Tensor, file: Path) -> str:
    """Write a network as module classes, or, where its code allows no such reading, as the graph of its forward pass.

    Args:
        net: The network, in eval mode.
        card: What is known of it, for the docstring.
        x: An example input of at least two rows.
        file: Where to; the weights go beside it.

    Returns:
        What the file can't do that the network can; empty for nothing.

    Raises:
        InputError: Its code can be read in neither form.
    """
    try:
        trains = _write_classes(net, card, file)
        why = _unlike(net, x, file)
    except UnwritableError as error:
        why = f"they can't hold {error}"
    if not why:
        return "" if trains else f"{file.name}: {_DOES_NOT}"
    try:
        written, tensors = graph_lines(net, x)
    except UnwritableError as error:
        raise InputError(f"--format python can't write {error}; try --format torch-export") from error
    _write(file, _text(Call(ROOT), written, _GRAPH, card), tensors)
    return f"{file.name} is for prediction alone, the graph of the forward pass in place of classes: {why}"


def _write_classes(net: nn.Module, card: Card, file: Path) -> bool:
    """Write a network as classes, and return whether its train mode is that of the original."""
    made, bodies = read_bodies(net)
    made, written = class_lines(made, bodies)
    plain = all(type(module).train is nn.Module.train for module in net.modules())
    trains = plain and all(body.trains for body in bodies.values())
    frozen = [name for name, parameter in net.named_parameters() if not parameter.requires_grad]
    _write(
        file,
        _text(made, written, _TRAINS if trains else _DOES_NOT, card, frozen),
        {**dict(net.named_parameters()), **dict(net.named_buffers())},
    )
    return trains


def _unlike(net: nn.Module, x: Tensor, file: Path) -> str:
    """Say what is wrong with the classes in a file; empty for nothing."""
    reached = _reached(net, x)
    try:
        other = read(file, net)
        if not difference(net, other, [x]) <= TOLERANCE:
            return "they compute something else"
        if reached is not None and reached != _reached(other, x):
            return "they would train other weights"
    except Exception as error:  # whatever code that was read wrongly raises
        return f"they don't run: {reason_of(error)}"
    return ""


def _reached(net: nn.Module, x: Tensor) -> set[str] | None:
    """The parameters that a gradient reaches; None where there can be none."""
    trained = {name: parameter for name, parameter in net.named_parameters() if parameter.requires_grad}
    try:
        outputs = net(x)
        if not outputs.requires_grad:
            return set()
        gradients = torch.autograd.grad(outputs.sum(), [*trained.values()], allow_unused=True)
    except RuntimeError:  # it writes over what a gradient needs, for instance
        return None
    return {name for name, gradient in zip(trained, gradients, strict=True) if gradient is not None}


def read(file: Path, net: nn.Module) -> nn.Module:
    """Run the file that was written.

    Args:
        file: What `write` wrote.
        net: Not needed.

    Returns:
        What its network computes.
    """
    loaded: nn.Module = runpy.run_path(str(file))["load"]()
    return loaded


def _write(file: Path, text: Sequence[str], tensors: Mapping[str, Tensor]) -> None:
    write_tensors({name: tensor.detach().clone() for name, tensor in tensors.items()}, file.with_suffix(".pt"))
    file.write_text("\n".join(text) + "\n", encoding="utf-8")


def _text(made: Source, written: Sequence[str], modes: str, card: Card, frozen: Sequence[str] = ()) -> list[str]:
    """The lines of a file.

    Args:
        made: Source that makes the network.
        written: The lines of its classes.
        modes: What is true of train and eval mode.
        card: What is known of the network.
        frozen: Names of the parameters that are not trained.

    Returns:
        The lines.
    """
    used = "\n".join([*written, *lines(made, 4)])
    names, untrained = (Call("", tuple(map(literal, some))) for some in (card.classes, frozen))
    built = "\n".join(lines(made, 4, "net = " if frozen else "return "))
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
        *(["", *lines(untrained, 0, "FROZEN = ")] if frozen else []),
        *written,
        *_LOADING.format(built=built + (_FREEZING if frozen else "")).rstrip().splitlines(),
    ]


def _docstring(card: Card, modes: str) -> list[str]:
    network = card.network if re.fullmatch(r"[\w.:]+", card.network) else ROOT
    first = wrap(f'"""{network} with {card.parameters:,} parameters, grown by outgrow.', WIDTH)
    return [*first, "", *wrap(card.sentence(), WIDTH), "", *wrap(modes, WIDTH), '"""']
