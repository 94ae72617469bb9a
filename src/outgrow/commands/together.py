"""Several processes of one command, as torchrun starts them: the first one writes and speaks, all of them train."""

import gc
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import torch
from torch import distributed as dist

from outgrow.errors import InputError
from outgrow.train.ranks import Ranks


@contextmanager
def together(device: str) -> Iterator[None]:
    """Meet the other processes where torchrun started several; only the first one is heard.

    Args:
        device: Where to train: `gloo` joins CPUs, `nccl` GPUs.

    Yields:
        Nothing.
    """
    if _count() == 1:
        yield
        return
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        with ExitStack() as stack:
            if not Ranks().is_first:
                nowhere = stack.enter_context(open(os.devnull, "w"))
                stack.enter_context(redirect_stdout(nowhere))
                stack.enter_context(redirect_stderr(nowhere))
            yield
    finally:
        gc.collect()  # wrapped networks, before the group that they talk through
        dist.destroy_process_group()


@contextmanager
def own_folder(out: Path) -> Iterator[Path]:
    """Give each process a folder to write to: the first one that which was asked for, the others a copy that goes.

    Args:
        out: The run folder.

    Yields:
        The folder.
    """
    ranks = Ranks()
    if ranks.is_first:
        ranks.gathered("all have read what is there")
        yield out
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "run"
        if out.is_dir():
            shutil.copytree(out, copy)
        ranks.gathered("this one has")
        yield copy


def demand_one_process(command: str) -> None:
    """Check that a command which can't share its work was started once.

    Args:
        command: Its name.

    Raises:
        InputError: torchrun started several.
    """
    if _count() > 1:
        raise InputError(f"{command} runs in one process, received {_count()} of them: start it without torchrun")


def _count() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))
