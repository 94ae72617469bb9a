"""The command line: `outgrow grow`, `inspect`, `report`, `finish`, `export` and `compare`."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from outgrow.errors import InputError
from outgrow.train.finish import Finishing


def _option(metavar: str) -> Any:
    """How an option without a default value is shown."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint="")


@dataclass
class Grow:
    """Train a network that starts small and grows where it pays; every size on the way is saved."""

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """What to learn: digits, mnist, fashion-mnist, cifar10, or a folder of idx files, of CIFAR-10 batches or of images
    in class folders, an .npz file with x and y, or a .csv file with --target."""
    model: Annotated[str, _option("NAME")] = ""
    """The seed network: mlp, convnet, resnet, or your own as package.module:factory; convnet for images and mlp for
    tables if not given."""
    max_params: Annotated[str | None, _option("N")] = None
    """Budget of parameters, such as 50000, 100k or 1.5M. Without any budget the network grows as long as it pays."""
    max_flops: Annotated[str | None, _option("N")] = None
    """Budget of the FLOPs of one example's forward pass, such as 200k or 1.5M (a multiply-add counts 2)."""
    max_latency: Annotated[str | None, _option("MS")] = None
    """Budget of the milliseconds of one example's forward pass, measured on this machine."""
    max_train_flops: Annotated[str | None, _option("N")] = None
    """Budget of the FLOPs of the whole run, checks included, such as 500G or 2.5T."""
    sizes: Annotated[tuple[str, ...], _option("N ...")] = ()
    """Sizes to leave, in parameters, such as 10k,30k,100k: the network stops at each, and the last is its budget. Where
    it pays, up to the budget, if not given."""
    family_quality: Annotated[str, _option("average|branch")] = "branch"
    """What is saved of a size: the average of the weights with which the network left it, or a branch: the size cut out
    of a larger one that is done, and trained for a short while."""
    policy: Annotated[str, tyro.conf.arg(metavar="NAME")] = "outgrow"
    """What decides when and where it grows: outgrow, schedule, random, gradmax, tiny, firefly, net2net, senn, secnn,
    senn-paper, secnn-paper, or your own as package.module:Policy."""
    policy_options: Annotated[tuple[str, ...], _option("KEY=VALUE ...")] = ()
    """Options of the policy, such as share=0.5 events=12."""
    prune: bool = False
    """Give back units that stopped paying, too, once the growth is over; for policies that can, as outgrow."""
    epochs: Annotated[int | None, _option("E")] = None
    """Passes over the training part; if not given, about 1.2 million examples, 20 to 100 epochs, or fewer where the
    network overfits."""
    seed: Annotated[int, tyro.conf.arg(metavar="S")] = 0
    """Seed of everything random."""
    out: Annotated[Path | None, _option("DIR")] = None
    """Folder of the run; runs/NAME of the data if not given."""
    overwrite: bool = False
    """Replace another run in that folder."""
    resume: bool = False
    """Go on with the run in that folder, from its last whole state; give the same options as before."""
    data_dir: Annotated[Path | None, _option("DIR")] = None
    """Where mnist, fashion-mnist and cifar10 are, or are downloaded to; $OUTGROW_DATA, else ~/.cache/outgrow, if not
    given."""
    target: Annotated[str | None, _option("COLUMN")] = None
    """The column of a CSV to predict."""
    task: Annotated[str | None, _option("classification|regression")] = None
    """What the target is, where the guess from its values is wrong."""
    widths: Annotated[tuple[int, ...], _option("W ...")] = ()
    """Starting widths of the seed network."""
    augment: Annotated[bool | None, _option("True|False")] = None
    """Random crops and mirrored images; on for photos (CIFAR-10, colour images in class folders) if not given."""
    rate: Annotated[float | None, _option("R")] = None
    """Peak learning rate; 3e-3 if not given, and with BatchNorm up to 2e-2, by batch size and steps."""
    batch_size: Annotated[int | None, _option("B")] = None
    """Examples a step."""
    device: Annotated[str, tyro.conf.arg(metavar="DEVICE")] = "auto"
    """cpu, cuda, or auto."""
    precision: Annotated[str, _option("fp32|bf16|fp16")] = "fp32"
    """fp32, or bf16 or fp16 for mixed precision, faster for all but small networks where the device has units for it;
    checks are in float32."""
    compile: bool = False
    """Train with torch.compile, anew after each growth; the report tells the time that it takes."""
    tensorboard: bool = False
    """Write the run as scalars to RUN/tensorboard as well, as it goes on; needs the extra outgrow[tensorboard]."""

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
        from outgrow.show.letters import say
        from outgrow.show.report import write_report

        say(str(write_report(self.run)))
        return 0


@dataclass
class Export:
    """Write a saved size as a file that needs no outgrow: the best one within the limits, or the one with a name."""

    run: tyro.conf.Positional[Path]
    """The run's folder."""
    format: Annotated[str, _option("state-dict|torch-export|onnx|python")] = "state-dict"
    """What to write: the weights by name (.safetensors, or .pt with --out), a program of torch.export, an ONNX graph,
    or a Python file that imports torch alone."""
    max_params: Annotated[str | None, _option("N")] = None
    """At most so many parameters, such as 50000, 100k or 1.5M."""
    max_flops: Annotated[str | None, _option("N")] = None
    """At most so many FLOPs of one example's forward pass."""
    max_latency: Annotated[str | None, _option("MS")] = None
    """At most so many milliseconds of one example's forward pass, measured on this machine."""
    min_accuracy: Annotated[float | None, _option("A")] = None
    """The smallest size of at least this validation accuracy, 0 to 1."""
    size: Annotated[str | None, _option("NAME")] = None
    """The name of a size, in place of limits."""
    model: Annotated[str | None, _option("PACKAGE.MODULE:FACTORY")] = None
    """What makes the seed network, where the run started from one of your own."""
    out: Annotated[Path | None, _option("FILE")] = None
    """The file; export/NAME in the run's folder if not given."""
    overwrite: bool = False
    """Replace a file that is there."""

    def __call__(self) -> int:
        """Run the command; return the exit code."""
        from outgrow.commands.export import export

        return export(self)


@dataclass
class Finish:
    """Finish sizes of a run that is done: each is cut out of a larger one and trained on for a short while."""

    run: tyro.conf.Positional[Path]
    """The run's folder."""
    sizes: Annotated[tuple[str, ...], _option("N ...")] = ()
    """The sizes to finish, such as 10k,30k,100k parameters: the largest that is no larger; some that are well apart if
    not given."""
    length: Annotated[float, _option("SHARE")] = Finishing.length
    """Steps of a branch of the largest size, as a share of those of the run, up to its best epoch where it overfitted;
    smaller sizes get more. Where it is longer than before, sizes that are finished get another branch."""
    distil: Annotated[float, _option("WEIGHT")] = Finishing.distil
    """Weight of what the largest size answers in the loss of the others, 0 to 1."""
    model: Annotated[str | None, _option("PACKAGE.MODULE:FACTORY")] = None
    """What makes the seed network, where the run started from one of your own."""
    data: Annotated[str | None, _option("DATA")] = None
    """Where your own data are, if they have moved or the run was started in another folder."""
    data_dir: Annotated[Path | None, _option("DIR")] = None
    """Where mnist, fashion-mnist and cifar10 are, if they have moved."""
    device: Annotated[str, tyro.conf.arg(metavar="DEVICE")] = "auto"
    """cpu, cuda, or auto."""

    def __call__(self) -> int:
        """Run the command; return the exit code."""
        from outgrow.commands.finish import finish

        return finish(self)


@dataclass
class Compare(Grow):
    """Compare a run's family with its sizes trained by themselves and with uniform widths; grow it first if need be.

    The options are those of `outgrow grow`. A run in --out that has the same is used; it goes on if it was stopped.
    """

    lengths: Annotated[tuple[float, ...], _option("SHARE ...")] = (0.25, 0.5, 1.0)
    """How long each size is trained by itself, in multiples of the run's epochs; 0.25 0.5 1 if not given. The shortest
    that is enough counts."""
    compared: Annotated[tuple[str, ...], _option("N | NAME ...")] = ("5",)
    """How many sizes, spread over those that no smaller one matches, 5 if not given; or their names."""

    def __call__(self) -> int:
        """Run the command; return the exit code."""
        from outgrow.commands.compare import compare

        return compare(self)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Words of the command; those of the process by default.

    Returns:
        The exit code: 0 done, 1 the run failed, 2 bad input (one line on standard error), 130 interrupted.
    """
    commands: dict[str, Callable[..., Any]] = {
        "grow": Grow,
        "inspect": Inspect,
        "report": Report,
        "finish": Finish,
        "export": Export,
        "compare": Compare,
    }
    command = tyro.extras.subcommand_cli_from_dict(
        commands, prog="outgrow", description="Neural networks that find their own size.", args=arguments
    )
    try:
        return int(command())
    except InputError as error:
        rank = os.environ.get("RANK", "0")
        print(f"outgrow{f' (rank {rank})' if rank != '0' else ''}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("outgrow: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
