"""What a reader of an exported file wants to know: what the network is, what goes in and out, how good it is."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from outgrow import __version__
from outgrow.stored import Stored
from outgrow.train.family import Family
from outgrow.train.size import Size


@dataclass(frozen=True)
class Card:
    """Facts about one size of a run.

    Args:
        size: The size's name.
        network: `mlp`, `convnet`, `resnet`, or the factory of a user's own.
        task: `classification` or `regression`.
        inputs: Shape of one example.
        outputs: Number of classes or targets.
        classes: Names of the classes; empty for a regression.
        widths: Units of each axis.
        blocks: Places of the blocks that were inserted, in order.
        parameters: How many it has.
        flops: Of one example's forward pass.
        validation: Loss and metrics on the validation part.
        test: The same on the test part, if there is one.
    """

    size: str
    network: str
    task: str
    inputs: tuple[int, ...]
    outputs: int
    classes: tuple[str, ...]
    widths: Mapping[str, int]
    blocks: tuple[str, ...]
    parameters: int
    flops: int
    validation: Mapping[str, float | None]
    test: Mapping[str, float | None] | None

    @classmethod
    def of(cls, family: Family, size: Size) -> "Card":
        """Take the facts from a run.

        Args:
            family: The family of the run.
            size: One of its sizes.

        Returns:
            The card.
        """
        config = Stored(family.config, str(family.path / "config.json"))
        network = config.within("seed_network")
        classes = config.within("data").texts("classes") if "data" in config else ()
        return cls(
            size=size.name,
            network=network.text("factory" if "factory" in network else "model"),
            task=family.task,
            inputs=family.inputs,
            outputs=network.whole("outputs"),
            classes=classes,
            widths=size.axes,
            blocks=size.blocks,
            parameters=size.params,
            flops=size.flops,
            validation=size.validation,
            test=size.test,
        )

    @property
    def output(self) -> str:
        """What comes out: `logits` of the classes, or a `prediction` in the target's own units."""
        return "logits" if self.task == "classification" else "prediction"

    def to_json(self) -> dict[str, Any]:
        """Return the facts as JSON values, with the version that wrote them."""
        return {**asdict(self), "output": self.output, "outgrow": __version__}

    def sentence(self) -> str:
        """Return what to pass and what comes out."""
        shape = ", ".join(map(str, self.inputs))
        units = "images scaled to 0..1" if len(self.inputs) == 3 else "rows with the columns as the run encoded them"
        gives = "logits, one a class" if self.task == "classification" else "the target in its own unit"
        return f"It maps {units}, [batch, {shape}], to [batch, {self.outputs}]: {gives}."
