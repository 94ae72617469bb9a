"""`outgrow grow`: train a network that grows."""

import math
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from outgrow import __version__, data, models
from outgrow.commands import earlier
from outgrow.commands.finish import finished
from outgrow.commands.given import dataset_of, device_of, sizes_of
from outgrow.commands.stop import tell_stop
from outgrow.commands.together import own_folder, together
from outgrow.data.digest import digest
from outgrow.errors import InputError
from outgrow.grow.budget import Budget
from outgrow.grow.policy import Policy, Timetable
from outgrow.registry import options_of, policy_of
from outgrow.show.console import Console
from outgrow.show.report import write_report
from outgrow.show.run import read_run
from outgrow.show.waiting import waiting
from outgrow.train.branch import Branches
from outgrow.train.checkpoints import Checkpoints
from outgrow.train.divergence import DivergedError
from outgrow.train.finish import RESERVED, Finishing, spaced, wanted
from outgrow.train.folder import RunFolder
from outgrow.train.lock import locked
from outgrow.train.recipe import Recipe
from outgrow.train.stages import SHARE
from outgrow.train.trainer import Trainer
from outgrow.values import count, seconds, settings

Number = TypeVar("Number", int, float)

if TYPE_CHECKING:
    from outgrow.cli import Grow


def grow(options: "Grow", again: str | None = None) -> int:
    """Run `outgrow grow`.

    Args:
        options: What the command line said.
        again: What to do after a stop; to say --resume, in place of --overwrite, if None.

    Returns:
        The exit code: 0, or 1 where the loss diverged.

    Raises:
        InputError: Anything about the options or the data that can't work; nothing is written then.
    """
    if options.resume and options.overwrite:
        raise InputError("--resume and --overwrite: expected one of them, to go on with a run or to replace it")
    device = device_of(options.device)
    with_resume = f"with --resume{' in place of --overwrite' if options.overwrite else ''}"
    with together(device):
        return _grow(options, device, again or f"the same command {with_resume} goes on")


def _grow(options: "Grow", device: str, again: str) -> int:
    """Run the command in one of its processes."""
    sizes, how = sizes_of(options.sizes), _quality(options)
    budget, policy = _budget(options), _policy(options)
    limit = _if_given(count, options.max_train_flops, "--max-train-flops")
    with waiting(f"reading {options.data}"):
        dataset = dataset_of(options)
    network = _seed_network(options, dataset)
    recipe = _recipe(options, len(dataset.train), network)
    with own_folder(options.out if options.out is not None else Path("runs") / dataset.name) as out:
        folder, console = RunFolder(out), Console(out)
        run: dict[str, Any] = {
            "seed": options.seed,
            "device": device,
            "precision": options.precision,
            "compiled": options.compile,
            "on_record": _listener(options, out, console),
            "on_step": console.tick,
        }
        with waiting("reading the network"):
            trainer = Trainer(
                dataset,
                network,
                recipe,
                folder,
                budget=budget,
                max_train_flops=limit,
                reserved=0.0 if how is None else RESERVED,
                sizes=sizes,
                policy=policy,
                policy_name=options.policy,
                **run,
            )
        if sizes and not hasattr(trainer.policy, "stops"):
            raise InputError(f"--sizes: policy {options.policy} chooses sizes of its own; leave one of them out")
        config = _config(options, dataset, network, trainer)
        with locked(out):
            grown = _is_finished(trainer, folder, console, config, options)
            if not grown and (code := _ran(trainer, folder, console, again)):
                return code
            if how is None:
                console.finish(folder.read_json("family.json"), write_report(out))
                return 0
            branches = Branches(dataset, network, recipe, folder, how, limit=limit, **run)
            names = wanted(branches.sizes, sizes) if sizes else spaced(branches.sizes)
            return finished(branches, names, folder, console, again)


def _is_finished(
    trainer: Trainer, folder: RunFolder, console: Console, config: dict[str, Any], options: "Grow"
) -> bool:
    """Whether the growth of the run in the folder is done already; makes it ready to start or to go on if it is not."""
    if options.resume and earlier.is_there(folder):
        earlier.demand_same(folder, config, _defaults(options))
        if earlier.is_finished(folder):
            earlier.demand_journal(folder)
            print(f"outgrow: the run in {folder.path} is finished", file=sys.stderr)
            console.recall(read_run(folder.path).records)
            Checkpoints(folder).clear()  # where it was killed between its end and that
            return True
        if (state := earlier.last_state(folder, trainer.device)) is not None:
            console.recall(state.records)
            trainer.resume(state)
            return False
    if options.resume:
        print(f"outgrow: {folder.path} holds no run to go on with: this one starts", file=sys.stderr)
    folder.claim(options.overwrite or options.resume)
    folder.write_json("config.json", config)
    return False


def _ran(trainer: Trainer, folder: RunFolder, console: Console, again: str) -> int:
    """Train to the end; say how it ended if that is not well, and return the exit code."""
    try:
        with console:
            trainer.run()
    except DivergedError as error:
        kept = "the last good size is saved" if folder.read_json("family.json")["sizes"] else "no size was saved"
        tell_stop(str(error), kept, folder.path)
        return 1
    except KeyboardInterrupt:
        tell_stop("interrupted", f"what was saved before is whole; {again}", folder.path)
        return 130
    return 0


def _quality(options: "Grow") -> Finishing | None:
    """How sizes are finished; None where the averages of the run are enough."""
    if options.family_quality not in ("average", "branch"):
        raise InputError(f"--family-quality {options.family_quality}: expected average or branch")
    return Finishing() if options.family_quality == "branch" else None


def _listener(options: "Grow", out: Path, console: Console) -> Callable[[Mapping[str, Any]], None]:
    """Return what hears every record of the journal: the console, and TensorBoard's files where they are wanted."""
    if not options.tensorboard:
        return console
    from outgrow.integrations.tensorboard import TensorBoard

    files = TensorBoard(out / "tensorboard")

    def tell(record: Mapping[str, Any]) -> None:
        console(record)
        files(record)

    return tell


def _budget(options: "Grow") -> Budget:
    return Budget(
        _if_given(count, options.max_params, "--max-params"),
        _if_given(count, options.max_flops, "--max-flops"),
        _if_given(seconds, options.max_latency, "--max-latency"),
    )


def _if_given(read: Callable[[str, str], Number], text: str | None, option: str) -> Number | None:
    return None if text is None else read(text, option)


def _policy(options: "Grow") -> Callable[[Timetable], Policy]:
    found = settings(options.policy_options, "--policy-options")
    makes = policy_of(options.policy, found)
    if not options.prune:
        return makes
    if "prune" in found:
        raise InputError(f"--prune and --policy-options prune={found['prune']}: expected one of them")
    try:
        return policy_of(options.policy, found | {"prune": "true"})
    except InputError as error:
        raise InputError(f"--prune: {error}") from error


def _seed_network(options: "Grow", dataset: data.Dataset) -> models.SeedNetwork:
    mean, std = dataset.input_statistics()
    name = options.model or ("convnet" if dataset.kind == "image" else "mlp")
    target = dataset.target_statistics() if dataset.task == "regression" else (torch.zeros(0), torch.zeros(0))
    statistics = {
        "input_mean": tuple(mean.tolist()),
        "input_std": tuple(std.tolist()),
        "output_mean": tuple(target[0].tolist()),
        "output_std": tuple(target[1].tolist()),
    }
    if ":" not in name:
        return models.Seed(name, dataset.inputs, dataset.outputs, tuple(options.widths), **statistics)
    if options.widths:
        raise InputError(f"--widths {' '.join(map(str, options.widths))}: {name} sets its own; leave --widths out")
    return models.imported_seed(name, dataset.inputs, dataset.outputs, **statistics)


def _recipe(options: "Grow", examples: int, network: models.SeedNetwork) -> Recipe:
    for name, value in {"--epochs": options.epochs, "--batch-size": options.batch_size, "--rate": options.rate}.items():
        if value is not None and not 0 < value < math.inf:
            raise InputError(f"{name} {value}: expected more than 0" + ", and finite" * (value == math.inf))
    recipe = Recipe.fit(examples, options.epochs)
    if options.batch_size is not None:
        recipe = replace(recipe, batch_size=min(options.batch_size, examples))
        if recipe.batch_size == 1:
            _demand_single(network)
    if options.sizes and options.family_quality == "average":
        recipe = replace(recipe, share=SHARE)
    if options.rate is not None:
        return replace(recipe, rate=options.rate)
    return recipe.suiting(network.build(), examples)


def _demand_single(network: models.SeedNetwork) -> None:
    """Check that a network trains on single examples: BatchNorm behind a linear layer can't."""
    with torch.random.fork_rng(devices=()):
        try:
            network.build().train()(torch.zeros(1, *network.inputs))
        except ValueError as error:
            raise InputError(f"--batch-size 1: {error}; expected at least 2 for this network") from None


def _defaults(options: "Grow") -> dict[str, Any]:
    return {field.name: field.default for field in fields(options)}


def _config(options: "Grow", dataset: data.Dataset, network: models.SeedNetwork, trainer: Trainer) -> dict[str, Any]:
    said = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
    return {
        "format": 1,
        "command": shlex.join(["outgrow", *sys.argv[1:]]),
        "options": said,
        "data": {
            "name": dataset.name,
            "task": dataset.task,
            "classes": list(dataset.classes),
            **dataset.description,
            "sha256": digest(dataset),
        },
        "seed_network": network.to_json(),
        "recipe": asdict(trainer.recipe),
        "policy": {"name": options.policy, "options": options_of(trainer.policy)},
        "versions": {"outgrow": __version__, "torch": torch.__version__},
    }
