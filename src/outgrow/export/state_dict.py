"""`NAME.safetensors` or `NAME.pt`: the weights by name, with a card that says what they are the weights of."""

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from outgrow.errors import InputError
from outgrow.export.card import Card
from outgrow.net.twin import duplicate


def write(net: nn.Module, card: Card, x: Tensor, file: Path) -> None:
    """Write a network's state dict.

    Args:
        net: The network.
        card: What is known of it: metadata of a safetensors file, or NAME.json beside a .pt file.
        x: Not needed.
        file: Where to; the ending says the format.

    Raises:
        InputError: Its state dict holds more than tensors.
    """
    from safetensors.torch import save

    # tied tensors are written under each of their names, as `load_state_dict` wants them
    state = net.state_dict()
    if others := [name for name, value in state.items() if not isinstance(value, Tensor)]:
        raise InputError(f"--format state-dict can't write {others[0]}, which is no tensor; try --format torch-export")
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}
    if file.suffix == ".pt":
        write_tensors(tensors, file)
        file.with_suffix(".json").write_text(json.dumps(card.to_json(), indent=1) + "\n", encoding="utf-8")
    else:
        metadata = {key: json.dumps(value) for key, value in card.to_json().items()}
        file.write_bytes(save(tensors, metadata))


def read(file: Path, net: nn.Module) -> Callable[[Tensor], Tensor]:
    """Read a state dict back into another network of the same shape.

    Args:
        file: What `write` wrote.
        net: A network of that shape; its weights are not used.

    Returns:
        What the network computes with the weights of the file.
    """
    from safetensors.torch import load_file

    tensors = torch.load(file, weights_only=True) if file.suffix == ".pt" else load_file(file)
    other = duplicate(net)
    other.load_state_dict(tensors)
    return other


def write_tensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Write tensors as `torch.load` reads them; a full disk is an OSError, which torch's own writing does not raise."""
    written = io.BytesIO()
    torch.save(dict(tensors), written)
    file.write_bytes(written.getbuffer())
