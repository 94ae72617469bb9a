"""The command line: `outgrow grow`, `outgrow inspect`, `outgrow report`."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from outgrow.errors import InputError


def _option(metavar: str) -> Any:
    """How an option without a default value is shown."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint="")


@dataclass
class Grow:
    """Train a network that starts small and grows where it pays; every size on the way is saved."""

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """What to learn: digits, mnist, fashion-mnist, cifar10, or a folder of idx files, of CIFAR-10 batches or of images
    in class folders, an .npz file with x and y, or a .csv file with --target."""
    model: Annotated[str, _option("mlp|convnet|resnet")] = ""
    """The seed network; convnet for images and mlp for tables if not given."""
    max_params: Annotated[str | None, _option("N")] = None
    """Budget of parameters, such as 50000, 100k or 1.5M. Without any budget the network grows as long as it pays."""
    max_flops: Annotated[str | None, _option("N")] = None
    """Budget of the FLOPs of one example's forward pass, such as 200k or 1.5M (a multiply-add counts 2)."""
    max_latency: Annotated[str | None, _option("MS")] = None
    """Budget of the milliseconds of one example's forward pass, measured on this machine."""
    max_train_flops: Annotated[str | None, _option("N")] = None
    """Budget of the FLOPs of the whole run, checks included, such as 500G or 2.5T."""
    policy: Annotated[str, tyro.conf.arg(metavar="NAME")] = "outgrow"
    """What decides when and where it grows: outgrow, schedule, random, gradmax, tiny, firefly, net2net, senn, secnn,
    senn-paper, secnn-paper, or your own as package.module:Policy."""
    policy_options: Annotated[tuple[str, ...], _option("KEY=VALUE ...")] = ()
    """Options of the policy, such as share=0.5 events=12."""
    prune: bool = False
    """Give back units that stopped paying, too, once the growth is over; for policies that can, as outgrow."""
    epochs: Annotated[int | None, _option("E")] = None
    """Passes over the training part; about 1.2 million examples if not given, 20 to 100 epochs."""
    seed: Annotated[int, tyro.conf.arg(metavar="S")] = 0
    """Seed of everything random."""
    out: Annotated[Path | None, _option("DIR")] = None
    """Folder of the run; runs/NAME of the data if not given."""
    overwrite: bool = False
    """Replace another run in that folder."""
    data_dir: Annotated[Path | None, _option("DIR")] = None
    """Where mnist, fashion-mnist and cifar10 are, or are downloaded to; $OUTGROW_DATA if not given."""
    target: Annotated[str | None, _option("COLUMN")] = None
    """The column of a CSV to predict."""
    task: Annotated[str | None, _option("classification|regression")] = None
    """What the target is, where the guess from its values is wrong."""
    widths: Annotated[tuple[int, ...], _option("W ...")] = ()
    """Starting widths of the seed network."""
    augment: Annotated[bool | None, _option("True|False")] = None
    """Random crops and mirrored images; on for photos (CIFAR-10, colour images in class folders) if not given."""
    rate: Annotated[float | None, _option("R")] = None
    """Peak learning rate."""
    batch_size: Annotated[int | None, _option("B")] = None
    """Examples a step."""
    device: Annotated[str, tyro.conf.arg(metavar="DEVICE")] = "auto"
    """cpu, cuda, or auto."""

    def __call__(self) -> int:
        """Run the command; return the exit code."""
        from outgrow.commands.grow import grow

        return grow(self)


@dataclass
class Inspect:
    """Show what of a model can grow, and where: its axes and places, and why the others can't."""

    factory: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PACKAGE.MODULE:FACTORY")]
    """A function or class that makes the model without arguments; it may also return a pair of model and example."""
    example: Annotated[tuple[str, ...], _option("SHAPE ...")] = ()
    """One shape for each input, such as 1x3x32x32; whole numbers below 50 as 1x16:50, keyword inputs as ids=1x16:50."""

    def __call__(self) -> int:
        """Run the command; return the exit code."""
        from outgrow.commands.inspect import inspect

        return inspect(self)


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
    commands: dict[str, Callable[..., Any]] = {"grow": Grow, "inspect": Inspect, "report": Report}
    command = tyro.extras.subcommand_cli_from_dict(
        commands, prog="outgrow", description="Neural networks that find their own size.", args=arguments
    )
    try:
        return int(command())
    except InputError as error:
        print(f"outgrow: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("outgrow: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
