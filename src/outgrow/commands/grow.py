"""`outgrow grow`: train a network that grows."""

import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from outgrow import __version__, data, models
from outgrow.errors import InputError
from outgrow.grow.budget import Budget
from outgrow.grow.policy import Policy, Timetable
from outgrow.registry import options_of, policy_of
from outgrow.show.console import Console
from outgrow.show.report import write_report
from outgrow.train.folder import RunFolder
from outgrow.train.recipe import Recipe
from outgrow.train.trainer import DivergedError, Trainer
from outgrow.values import count, seconds, settings

Number = TypeVar("Number", int, float)

if TYPE_CHECKING:
    from outgrow.cli import Grow


def grow(options: "Grow") -> int:
    """Run `outgrow grow`.

    Args:
        options: What the command line said.

    Returns:
        The exit code: 0, or 1 where the loss diverged.

    Raises:
        InputError: Anything about the options or the data that can't work; nothing is written then.
    """
    device = _device(options.device)
    budget, policy = _budget(options), _policy(options)
    train_flops = _if_given(count, options.max_train_flops, "--max-train-flops")
    dataset = data.load(
        options.data,
        data_dir=str(options.data_dir) if options.data_dir else None,
        target=options.target,
        task=options.task,
        seed=options.seed,
        augment=options.augment,
    )
    network = _seed_network(options, dataset)
    recipe = _recipe(options, len(dataset.train))
    out = options.out if options.out is not None else Path("runs") / dataset.name
    folder, console = RunFolder(out), Console(out)
    trainer = Trainer(
        dataset,
        network,
        recipe,
        folder,
        budget=budget,
        max_train_flops=train_flops,
        policy=policy,
        policy_name=options.policy,
        seed=options.seed,
        device=device,
        on_record=console,
        on_step=console.tick,
    )
    folder.claim(options.overwrite)
    folder.write_json("config.json", _config(options, dataset, network, recipe, trainer.policy))
    try:
        with console:
            family = trainer.run()
    except DivergedError as error:
        kept = "the last good size is saved" if folder.read_json("family.json")["sizes"] else "no size was saved"
        print(f"outgrow: {error}; {kept}; report: {write_report(out)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"outgrow: interrupted; what was saved before is whole; report: {write_report(out)}", file=sys.stderr)
        return 130
    console.finish(family, write_report(out))
    return 0


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


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, dtype=torch.float64, device=name)  # the factors are float64, which not every device has
    except (RuntimeError, AssertionError, TypeError) as error:
        raise InputError(f"--device {name}: torch can't compute there; use cpu, cuda or auto") from error
    return name


def _seed_network(options: "Grow", dataset: data.Dataset) -> models.Seed:
    mean, std = dataset.input_statistics()
    name = options.model or ("convnet" if dataset.kind == "image" else "mlp")
    target = dataset.target_statistics() if dataset.task == "regression" else (torch.zeros(0), torch.zeros(0))
    return models.Seed(
        name,
        dataset.inputs,
        dataset.outputs,
        widths=tuple(options.widths),
        input_mean=tuple(mean.tolist()),
        input_std=tuple(std.tolist()),
        output_mean=tuple(target[0].tolist()),
        output_std=tuple(target[1].tolist()),
    )


def _recipe(options: "Grow", examples: int) -> Recipe:
    for name, value in {"--epochs": options.epochs, "--batch-size": options.batch_size, "--rate": options.rate}.items():
        if value is not None and not value > 0:
            raise InputError(f"{name} {value}: expected more than 0")
    recipe = Recipe.fit(examples, options.epochs)
    changes: dict[str, Any] = {}
    if options.rate is not None:
        changes["rate"] = options.rate
    if options.batch_size is not None:
        changes["batch_size"] = min(options.batch_size, examples)
    return replace(recipe, **changes)


def _config(
    options: "Grow", dataset: data.Dataset, network: models.Seed, recipe: Recipe, policy: Policy
) -> dict[str, Any]:
    said = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
    return {
        "format": 1,
        "command": shlex.join(["outgrow", *sys.argv[1:]]),
        "options": said,
        "data": {"name": dataset.name, "task": dataset.task, "classes": list(dataset.classes), **dataset.description},
        "seed_network": network.to_json(),
        "recipe": asdict(recipe),
        "policy": {"name": options.policy, "options": options_of(policy)},
        "versions": {"outgrow": __version__, "torch": torch.__version__},
    }
