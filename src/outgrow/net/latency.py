"""What a network costs in time: one forward pass, measured where it runs."""

import statistics
import time
from itertools import chain

import torch
from torch import nn

from outgrow.errors import InputError
from outgrow.net.inputs import Example, call, misfit
from outgrow.net.preserve import frozen_state, tensors_in

WARM_UPS = 2  # passes before the clock runs: memory, caches and kernels are made ready
LEAST = 5  # passes that are timed, however slow
MOST_SECONDS = 0.2  # of timed passes, beyond the least


def latency(model: nn.Module, example: Example, repeats: int = 100) -> float:
    """Return the time [seconds] of one forward pass on `example`: the median of repeats, after warm-up.

    The model runs in eval mode without gradients, on the device, in the precision (autocast) and with the number of
    threads that are set where this is called. Passes stop after a fifth of a second, but not before the fifth one.

    Args:
        model: Its modes, buffers and random states are put back.
        example: One input, of the batch size that matters.
        repeats: Timed passes, at most.

    Returns:
        The median time.

    Raises:
        InputError: The model does not run on the example, or `repeats` is below 1.

    Examples:
        >>> 0 < latency(nn.Linear(3, 2), torch.zeros(1, 3)) < 1
        True
    """
    if repeats < 1:
        raise InputError(f"expected at least 1 repeat of a forward pass, got {repeats}")
    device = next(chain(tensors_in(example), model.parameters(), [torch.zeros(())])).device
    seconds: list[float] = []
    with frozen_state(model), torch.no_grad():
        model.eval()
        try:
            for _ in range(WARM_UPS):
                _pass_seconds(model, example, device)
        except Exception as error:
            raise InputError(misfit(model, error)) from error
        while len(seconds) < repeats and (len(seconds) < LEAST or sum(seconds) < MOST_SECONDS):
            seconds.append(_pass_seconds(model, example, device))
    return statistics.median(seconds)


def _pass_seconds(model: nn.Module, example: Example, device: torch.device) -> float:
    """Return the seconds of one pass, from an idle device to an idle device."""
    _wait_for(device)
    started = time.perf_counter()
    call(model, example)
    _wait_for(device)
    return time.perf_counter() - started


def _wait_for(device: torch.device) -> None:
    """Wait until an accelerator has done what it was given; a processor has."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
