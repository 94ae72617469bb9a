"""A network as the graph of its forward pass, in operators of ATen: for what can't be written as classes."""

from collections.abc import Mapping
from keyword import iskeyword

import torch
from torch import Tensor, fx, nn

from outgrow.export.bodies import ROOT
from outgrow.export.forward import Statements, literal
from outgrow.export.layers import empty_source
from outgrow.export.source import Call, lines
from outgrow.export.torch_export import exported
from outgrow.net.graph import live

_PLACE = '''

def place(module, name, tensor):
    """Give a tree of modules a parameter or buffer under a dotted name."""
    *path, last = name.split(".")
    for part in path:
        if part not in dict(module.named_children()):
            module.add_module(part, nn.Module())
        module = module.get_submodule(part)
    if isinstance(tensor, nn.Parameter):
        module.register_parameter(last, tensor)
    else:
        module.register_buffer(last, tensor)
'''


def graph_lines(net: nn.Module, x: Tensor) -> tuple[list[str], dict[str, Tensor]]:
    """Write one class, `Network`, whose forward is the exported graph.

    Args:
        net: The network, in eval mode.
        x: An example input [batch, ...] of at least two rows.

    Returns:
        The lines of the class, and the tensors that it has: the network's, by their own names, and constants of its
        code.

    Raises:
        InputError: The network can't be exported for any number of rows.
        UnwritableError: The graph calls something that torch has not.

    Examples:
        >>> lines, tensors = graph_lines(nn.Linear(3, 2).eval(), torch.zeros(2, 3))
        >>> lines[-1].strip(), list(tensors)
        ('return torch.ops.aten.linear.default(input, self.weight, self.bias)', ['weight', 'bias'])
    """
    with torch.no_grad():  # else what a forward does without gradients is a graph of its own
        program = exported(net, x)
    signature, graph = program.graph_signature, program.graph
    own = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    constants = dict(signature.inputs_to_lifted_tensor_constants)
    tensors: dict[str, Tensor] = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    first = {id(tensor): name for name, tensor in tensors.items()}
    tensors |= {name: torch.as_tensor(program.constants[name]) for name in constants.values()}
    stored: dict[fx.Node, str] = {}
    for node in graph.nodes:
        if node.name in own:
            stored[node] = _access(tensors, first[id(_tensor_at(net, own[node.name]))])
        elif node.name in constants:
            stored[node] = _access(tensors, constants[node.name])
        elif node.op == "output":
            node.args = node.args[0]  # one value alone
    statements = Statements(graph, stored, alive=live(list(graph.nodes)))
    made = [
        line
        for name, tensor in tensors.items()
        for line in lines(Call("place", ("self", literal(name), empty_source(tensor, "tensor"))), 8)
    ]
    return [
        *_PLACE.rstrip().splitlines(),
        "",
        "",
        f"class {ROOT}(nn.Module):",
        '    """The forward pass in eval mode."""',
        "",
        "    def __init__(self):",
        "        super().__init__()",
        *made,
        "",
        *lines(Call("forward", ("self", *statements.inputs)), 4, "def ", ":"),
        *statements.lines,
    ], tensors


def _tensor_at(net: nn.Module, name: str) -> Tensor:
    path, _, last = name.rpartition(".")
    found: Tensor = getattr(net.get_submodule(path), last)
    return found


def _access(tensors: Mapping[str, Tensor], name: str) -> str:
    """The source of a tensor of the class that is written."""
    if all(part.isidentifier() and not iskeyword(part) for part in name.split(".")):
        return f"self.{name}"
    kind = "parameter" if isinstance(tensors[name], nn.Parameter) else "buffer"
    return f"self.get_{kind}({literal(name)})"
