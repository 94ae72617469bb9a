"""The command line: `outgrow grow`, `outgrow report`."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from outgrow.errors import InputError


@dataclass
class Grow:
    """Train a network that starts small and grows where it pays; every size on the way is saved."""

    data: tyro.conf.Positional[str]
    """What to learn: digits, mnist, fashion-mnist, cifar10, or a folder of idx files, of CIFAR-10 batches or of images
    in class folders, an .npz file with x and y, or a .csv file with --target."""
    model: Annotated[str, tyro.conf.arg(metavar="mlp|convnet|resnet")] = ""
    """The seed network; convnet for images and mlp for tables if not given."""
    max_params: Annotated[str, tyro.conf.arg(metavar="N")] = ""
    """Budget of parameters, such as 50000, 100k or 1.5M; without one the network grows as long as it pays."""
    epochs: int | None = None
    """Passes over the training part; about 1.2 million examples if not given, 20 to 100 epochs."""
    seed: int = 0
    """Seed of everything random."""
    out: Path | None = None
    """Folder of the run; runs/NAME of the data if not given."""
    overwrite: bool = False
    """Replace another run in that folder."""
    data_dir: Path | None = None
    """Where mnist, fashion-mnist and cifar10 are, or are downloaded to; $OUTGROW_DATA if not given."""
    target: Annotated[str | None, tyro.conf.arg(metavar="COLUMN")] = None
    """The column of a CSV to predict."""
    task: Literal["classification", "regression"] | None = None
    """What the target is, where the guess from its values is wrong."""
    widths: tuple[int, ...] = ()
    """Starting widths of the seed network."""
    rate: float | None = None
    """Peak learning rate."""
    batch_size: int | None = None
    """Examples a step."""
    device: str = "auto"
    """cpu, cuda, mps, or auto."""

    def __call__(self) -> int:
        """Run the command; return the exit code."""
        from outgrow.commands import grow

        return grow(self)


@dataclass
class Report:
    """Write report.html of a run again."""

    run: tyro.conf.Positional[Path]
    """The run's folder."""

    def __call__(self) -> int:
        """Run the command; return the exit code."""
        from outgrow.show.report import write_report

        print(write_report(self.run))
        return 0


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Words of the command; those of the process by default.

    Returns:
        The exit code: 0 done, 1 the run failed, 2 bad input (one line on standard error), 130 interrupted.
    """
    commands: dict[str, Callable[..., Any]] = {"grow": Grow, "report": Report}
    command = tyro.extras.subcommand_cli_from_dict(
        commands, prog="outgrow", description="Neural networks that find their own size.", args=arguments
    )
    try:
        return int(command())
    except InputError as error:
        print(f"outgrow: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("outgrow: interrupted; the sizes saved so far are whole", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
