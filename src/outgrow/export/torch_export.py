"""`NAME.pt2`: the graph and the weights, as `torch.export` saves them, for any number of rows."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from outgrow.errors import InputError
from outgrow.export.card import Card
from outgrow.export.silence import reason_of, silence

CARD = "outgrow.json"
"""The name of the extra file with the card."""


def exported(net: nn.Module, x: Tensor) -> ExportedProgram:
    """Export a network for any number of rows.

    Args:
        net: The network, in eval mode.
        x: An example input [batch, ...] of at least two rows.

    Returns:
        The exported program.

    Raises:
        InputError: `torch.export` can't follow its code, or the code needs a certain number of rows.
    """
    try:
        with silence():
            program = torch.export.export(net, (x,), dynamic_shapes=({0: Dim("batch")},), strict=False)
    except Exception as error:  # whatever torch.export or the user's code raises
        reason = reason_of(error)
        if "specialized it to be a constant" in str(error):
            reason = "its code makes a constant of it; write x.shape[0] in place of len(x)"
        raise InputError(f"torch.export can't write this network for any number of rows: {reason}") from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine are nobody's business
    return program


def write(net: nn.Module, card: Card, x: Tensor, file: Path) -> None:
    """Write a network as a program of `torch.export`.

    Args:
        net: The network, in eval mode.
        card: What is known of it; it goes into the file as `outgrow.json`.
        x: An example input.
        file: Where to.

    Raises:
        InputError: `torch.export` can't follow the network.
    """
    written = io.BytesIO()  # to a full disk torch's own writing ends the process
    torch.export.save(exported(net, x), written, extra_files={CARD: json.dumps(card.to_json())})
    file.write_bytes(written.getbuffer())


def read(file: Path, net: nn.Module) -> Callable[[Tensor], Tensor]:
    """Read a program back.

    Args:
        file: What `write` wrote.
        net: Not needed.

    Returns:
        What it computes.
    """
    program: Callable[[Tensor], Tensor] = torch.export.load(file).module()
    return program
