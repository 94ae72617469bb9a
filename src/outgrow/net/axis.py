"""An axis: the dimensions of parameters and buffers that must change together."""

from dataclasses import dataclass

from torch import Tensor

from outgrow.net.gains import Gain
from outgrow.net.setting import Scaled


@dataclass(frozen=True, eq=False)
class Member:
    """One dimension of one tensor along which an axis lies.

    Args:
        tensor: Name in the state dict.
        dim: Dimension of the tensor.
        index: Where each unit sits along the dimension [units, entries]; several entries where one unit covers more
            than one place, like the k*k columns of a linear layer behind a flattened convolution, or the rows of a
            head.
        roles: What the dimension is for: `out` hands the axis out, `in` reads it, `channel` has one entry for each,
            `scale` is one of those that values are multiplied with.
        run: Most entries of a unit that stay together, where a single unit can't tell: new units come in behind each
            run. 0 for as many as stand side by side.
    """

    tensor: str
    dim: int
    index: Tensor
    roles: frozenset[str]
    run: int = 0

    @property
    def module(self) -> str:
        """Path of the module that owns the tensor."""
        return self.tensor.rpartition(".")[0]


@dataclass(frozen=True, eq=False)
class Axis:
    """A number of channels, neurons, heads or groups, in all the places where it shows.

    Args:
        name: Path of the first module that hands the axis out.
        size: Units it has now.
        members: Every dimension that changes with it, in the order of the graph.
        growable: Whether it can change.
        reason: Why not, or empty.
        settings: Attributes of modules that change with it, such as the number of heads.
        gains: RMS norms over the axis, whose gains make up for more channels.
        zero: Where new units come in through zeros: `in`, the columns that read them, or `out`, the rows that write
            them, where a norm must not see them.
    """

    name: str
    size: int
    members: tuple[Member, ...]
    growable: bool
    reason: str
    settings: tuple[Scaled, ...] = ()
    gains: tuple[Gain, ...] = ()
    zero: str = "in"

    def with_role(self, role: str) -> list[Member]:
        """Return the members that have a role."""
        return [member for member in self.members if role in member.roles]

    @property
    def consumers(self) -> list[Member]:
        """The weights that read the axis."""
        return self.with_role("in")

    @property
    def producers(self) -> list[Member]:
        """The weights that hand the axis out."""
        return self.with_role("out")

    @property
    def multiplicity(self) -> int:
        """Entries that one unit has in the tensor where it has most: the rows of a head, the columns of a pixel."""
        return max(member.index.shape[1] for member in self.members)

    @property
    def channels(self) -> int:
        """Channels of one unit, as they are handed out: 1, or those of a head or of a group."""
        return max(member.index.shape[1] for member in self.producers or self.members)

    @property
    def places(self) -> list[str]:
        """Every dimension along which it lies, such as `0.weight[1] by 9` where a unit has nine entries."""
        return [
            f"{m.tensor}[{m.dim}]" + (f" by {m.index.shape[1]}" if m.index.shape[1] > 1 else "") for m in self.members
        ]

    def __repr__(self) -> str:
        what = f"{self.size} unit{'s' if self.size != 1 else ''} in {', '.join(self.places)}"
        set_too = ", ".join(f"{s.module}.{s.attribute}".lstrip(".") for s in self.settings)
        what += f" and {set_too}" if set_too else ""
        return f"{self.name}: {what}" + ("" if self.growable else f" (fixed: {self.reason})")
