"""`NAME.onnx`: the graph and the weights in the Open Neural Network Exchange format, for any number of rows."""

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from outgrow.errors import InputError
from outgrow.export.card import Card
from outgrow.export.silence import reason_of, silence
from outgrow.export.torch_export import exported

INPUT = "x"
"""The name of the graph's input."""


def write(net: nn.Module, card: Card, x: Tensor, file: Path) -> None:
    """Write a network as an ONNX graph from `x` to `logits` or `prediction`.

    Args:
        net: The network, in eval mode.
        card: What is known of it; it goes into the metadata, each value as JSON.
        x: An example input of at least two rows.
        file: Where to.

    Raises:
        InputError: onnx is not installed, or torch can't write this network in it.
    """
    if not (find_spec("onnx") and find_spec("onnxscript")):
        raise InputError('--format onnx needs onnx and onnxscript: pip install "outgrow[onnx]"')
    program = exported(net, x)
    try:
        with silence():
            graph = torch.onnx.export(
                program,
                (x,),
                dynamo=True,
                verbose=False,
                input_names=[INPUT],
                output_names=[card.output],
                dynamic_shapes=({0: "batch"},),
            )
    except Exception as error:  # whatever the exporter raises
        raise InputError(f"torch can't write this network as ONNX: {reason_of(error)}") from error
    assert graph is not None
    graph.model.metadata_props.update({key: json.dumps(value) for key, value in card.to_json().items()})
    graph.save(file)


def read(file: Path, net: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """Read a graph back with onnxruntime.

    Args:
        file: What `write` wrote.
        net: Not needed.

    Returns:
        What it computes, or None where onnxruntime is not installed.
    """
    if not find_spec("onnxruntime"):
        return None
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {INPUT: x.numpy()})[0])
