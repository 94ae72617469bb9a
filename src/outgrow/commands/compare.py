"""`outgrow compare`: the family of a run beside its sizes trained by themselves, and beside uniform widths."""

import math
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from outgrow import data
from outgrow.commands.earlier import is_there
from outgrow.commands.given import dataset_of, device_of
from outgrow.commands.grow import grow
from outgrow.commands.stop import tell_stop
from outgrow.commands.together import demand_one_process
from outgrow.errors import InputError
from outgrow.models import SeedNetwork, seed_from_json
from outgrow.show.comparison import show
from outgrow.show.letters import say
from outgrow.show.report import write_report
from outgrow.show.run import read_run
from outgrow.show.trainings import Trainings, screen
from outgrow.stored import Stored
from outgrow.train.alone import SPENT, train_alone
from outgrow.train.architecture import Grown
from outgrow.train.comparison import FILE, Comparison, Training, read_entries, spread
from outgrow.train.divergence import DivergedError
from outgrow.train.family import Family
from outgrow.train.folder import RunFolder
from outgrow.train.lock import locked
from outgrow.train.recipe import Recipe
from outgrow.train.size import Size
from outgrow.train.uniform import of_widths, uniform_widths, widths_of

if TYPE_CHECKING:
    from outgrow.cli import Compare

UNIFORM = 3  # how many uniform widths


def compare(options: "Compare") -> int:
    """Run `outgrow compare`.

    Args:
        options: What the command line said.

    Returns:
        The exit code: 0, 1 where a loss diverged, or 130 where the user stopped it.

    Raises:
        InputError: Anything about the options, the data or the run that can't work.
    """
    demand_one_process("compare")
    _demand_sense(options)
    dataset = dataset_of(options)
    out = options.out if options.out is not None else Path("runs") / dataset.name
    again = f"the same command {'without --overwrite ' if options.overwrite else ''}"
    if code := grow(_growing(options, out), f"{again}goes on"):
        return code
    with locked(out):
        return _Comparing(options, dataset, out).run(f"{again}does the rest")


class _Comparing:
    """The trainings beside one run.

    Args:
        options: What the command line said.
        dataset: What the run learned.
        out: The run folder.
    """

    def __init__(self, options: "Compare", dataset: data.Dataset, out: Path) -> None:
        self._dataset, self._folder, self._family = dataset, RunFolder(out), Family(out)
        config, start = self._family.config, read_run(out).start
        self._recipe = Recipe.from_json(Stored(config["recipe"], str(out / "config.json"), "recipe"))
        how = {"device": device_of(start["device"]), "precision": options.precision, "compiled": options.compile}
        self._how: dict[str, Any] = {"seed": options.seed, **how}
        self._seed = seed_from_json(config["seed_network"], options.model if ":" in options.model else None)
        sizes = [size.name for size in _sizes(self._family, options.compared)]
        lengths = sorted({max(1, round(length * self._recipe.epochs)) for length in options.lengths})
        took = {key: self._family.total[key] for key in SPENT}
        anchors = spread(sizes, UNIFORM) if widths_of(self._seed) else []
        self._told = Comparison(
            self._family.metric, took, sizes, lengths, anchors, read_entries(self._folder, self._family.metric)
        )
        steps = max(len(dataset.train) // self._recipe.batch_size, 1)
        self._show = Trainings(steps, self._recipe.epochs, took["seconds"], self._family.metric)

    def run(self, again: str) -> int:
        """Do what is not done yet, and show all of it.

        Args:
            again: What to do after a stop.

        Returns:
            The exit code.
        """
        told, out = self._told, self._folder.path
        told.write(self._folder)
        count = len(told.trainings) + len(told.anchors)
        try:
            with self._show:
                for training in told.trainings:
                    self._train(training, count)
                for name in told.anchors:
                    self._train(self._widened(name), count)
        except DivergedError as error:
            tell_stop(str(error), self._progress(count), out)
            return 1
        except KeyboardInterrupt:
            tell_stop("interrupted", f"{self._progress(count)}, {again}", out)
            return 130
        sizes = {entry["name"]: entry for entry in self._folder.read_json("family.json")["sizes"]}
        show(told.to_json(), sizes, told.metric, screen())
        if not told.anchors:
            say(f"nothing of {self._seed.model} can be widened, so no uniform widths were trained")
        say(f"\nrun     {out.as_posix()}\nreport  {write_report(out).as_posix()}")
        return 0

    def _train(self, training: Training, count: int) -> None:
        """Train a network by itself, if that isn't done, and write down what came of it."""
        told = self._told
        if told.find(training):
            return
        self._show.announce(str(training), self._done + 1, count, training.epochs, self._rest() - training.epochs)
        recipe = replace(self._recipe, epochs=training.epochs)
        try:
            made = train_alone(self._dataset, self._network(training), recipe, on_step=self._show.tick, **self._how)
        except DivergedError as error:
            raise DivergedError(f"{training}: {error}") from error
        told.entries.append({**training.to_json(), **made})
        told.write(self._folder)
        self._show.tell(told.entries[-1])

    def _network(self, training: Training) -> SeedNetwork:
        if training.widths is not None:
            return of_widths(self._seed, training.widths)
        size = self._family[training.size]
        tensors = self._folder.read_tensors(size.file, size.sha256)
        return Grown(self._seed, size.blocks, {name: list(t.shape) for name, t in tensors.items()}, size.settings)

    def _widened(self, name: str) -> Training:
        assert self._told.chosen is not None
        return Training(name, self._told.chosen, uniform_widths(self._seed, self._family[name].params))

    @property
    def _done(self) -> int:
        return len(self._told.sweep) + len(self._told.uniform)

    def _rest(self) -> int:
        """Epochs that are to be done; of uniform widths as if the longest length were chosen, until one is."""
        told = self._told
        widened = (len(told.anchors) - len(told.uniform)) * (told.chosen or told.lengths[-1])
        return sum(training.epochs for training in told.trainings if not told.find(training)) + widened

    def _progress(self, count: int) -> str:
        return f"{self._done} of {count} trainings are in {self._folder.path / FILE}"


def _demand_sense(options: "Compare") -> None:
    """Check what can be checked before there is a run.

    Raises:
        InputError: A length is not above zero, or nothing is asked for.
    """
    if wrong := [length for length in options.lengths if not 0 < length < math.inf]:
        raise InputError(f"--lengths {wrong[0]:g}: expected multiples of the run's epochs above zero, such as 0.5 1")
    if not options.lengths:
        raise InputError("--lengths: expected one at least, such as 0.5 1")
    if not options.compared or options.compared == ("0",):
        raise InputError("--compared: expected how many, 1 at least, or names of sizes")


def _growing(options: "Compare", out: Path) -> Any:
    """Return the options of `outgrow grow` that leave the run done, whatever is there of it."""
    from outgrow.cli import Grow

    said = {one.name: getattr(options, one.name) for one in fields(Grow)}
    return Grow(**{**said, "resume": options.resume or (is_there(RunFolder(out)) and not options.overwrite)})


def _sizes(family: Family, words: Sequence[str]) -> list[Size]:
    """Return the sizes that are to be compared, smallest first.

    Args:
        family: The family.
        words: Their names, or how many.

    Returns:
        The sizes.

    Raises:
        InputError: There is no such size.
    """
    if len(words) == 1 and words[0].isdecimal():
        front = family.pareto()
        done = [size for size in front if size.quality == "branch"]
        return spread([*done, front[-1]] if done and done[-1] is not front[-1] else done or front, int(words[0]))
    wanted = {family[name].name for name in words}
    return [size for size in family if size.name in wanted]
