"""RMS norms in a graph: where a mean square runs over channels, and which gains can make up for more of them.

    y = g * x / sqrt(mean(x^2) + eps)

With k channels of zeros beside n, the mean square falls by n / (n + k); gains times sqrt(n / (n + k)) and
eps times n / (n + k) give the same y (Zhang and Sennrich, arXiv 1910.07467, for the norm).
"""

import math
from dataclasses import dataclass

from torch import fx, nn

_CASTS = {"to", "_to_copy", "type_as", "contiguous", "clone", "alias"}


@dataclass(frozen=True)
class Gain:
    """The gains of an RMS norm over an axis.

    Args:
        tensor: Name of the gains in the state dict.
        module: Path of the norm.
        attribute: Name of the attribute that holds eps; empty where there is none.
        eps: Its value where the attribute says None.
    """

    tensor: str
    module: str
    attribute: str
    eps: float

    def eps_now(self, model: nn.Module) -> float:
        """Return the eps that the norm has now."""
        value = getattr(model.get_submodule(self.module), self.attribute)
        return self.eps if value is None else float(value)

    @staticmethod
    def factor(before: int, after: int) -> float:
        """Return what the gains are multiplied with when the channels change in number."""
        return math.sqrt(before / after)


def gain_of(mean: fx.Node) -> tuple[fx.Node, float | None] | None:
    """Return the gains and eps of an RMS norm that is written out, given its mean; None where it is something else."""
    x = _square_of(_bare(mean.args[0]))
    if _op(mean) != "mean" or len(mean.args) < 3 or list(_as_list(mean.args[1])) != [-1] or not mean.args[2] or not x:
        return None
    node, eps = _only_user(mean), None
    if node is not None and _op(node) == "add":
        eps = next((float(arg) for arg in node.args if isinstance(arg, (int, float))), None)
        node = _only_user(node)
    if node is None or _op(node) not in ("rsqrt", "sqrt"):
        return None
    scaled = _only_user(node)
    if scaled is None or _op(scaled) != ("mul" if _op(node) == "rsqrt" else "div"):
        return None
    if not any(_bare(arg) is x for arg in scaled.args if arg is not node):
        return None
    product = _only_user(scaled)
    while product is not None and _op(product) in _CASTS:
        product = _only_user(product)
    if product is None or _op(product) != "mul":
        return None
    factors = [_bare(arg) for arg in product.args]
    gains = [factor for factor in factors if factor is not None and factor.op in ("placeholder", "get_attr")]
    return (gains[0], eps) if len(gains) == 1 else None


def _op(node: fx.Node) -> str:
    return str(getattr(node.target, "__name__", node.target)).partition(".")[0]


def _as_list(dims: object) -> list[object]:
    return list(dims) if isinstance(dims, (list, tuple)) else [dims]


def _bare(arg: object) -> fx.Node | None:
    """A node without the casts around it."""
    while isinstance(arg, fx.Node) and _op(arg) in _CASTS:
        arg = arg.args[0]
    return arg if isinstance(arg, fx.Node) else None


def _square_of(node: fx.Node | None) -> fx.Node | None:
    """What a node squares, if that is what it does."""
    if node is None or node.op != "call_function":
        return None
    squares = (
        _op(node) == "square"
        or (_op(node) == "pow" and node.args[1] in (2, 2.0))
        or (_op(node) == "mul" and node.args[0] is node.args[1])
    )
    return _bare(node.args[0]) if squares else None


def _only_user(node: fx.Node) -> fx.Node | None:
    users = [user for user in node.users if not _op(user).startswith("_assert")]
    return users[0] if len(users) == 1 else None
