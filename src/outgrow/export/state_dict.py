"""`NAME.safetensors` or `NAME.pt`: the weights by name, with a card that says what they are the weights of."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from outgrow.export.card import Card


def write(net: nn.Module, card: Card, x: Tensor, file: Path) -> None:
    """Write a network's state dict.

    Args:
        net: The network.
        card: What is known of it: metadata of a safetensors file, or NAME.json beside a .pt file.
        x: Not needed.
        file: Where to; the ending says the format.
    """
    from safetensors.torch import save

    # tied tensors are written under each of their names, as `load_state_dict` wants them
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in net.state_dict().items()}
    if file.suffix == ".pt":
        torch.save(tensors, file)
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
    return lambda x: torch.func.functional_call(net, tensors, (x,), strict=True)
