"""How long something takes, and by how much memory grows meanwhile."""

import ctypes
import gc
import re
import resource
import time
from collections.abc import Callable
from pathlib import Path

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def timed(act: Callable[[], object], device: str = "cpu") -> tuple[float, int]:
    """Seconds that it takes, and by how many bytes memory grows at most meanwhile.

    On a GPU that is the memory of its tensors. On the CPU it is what the process holds (Linux), best in a process of
    its own: memory that was free before and is used now doesn't show.
    """
    gc.collect()
    if device == "cpu":
        if CLEAR.exists():
            ctypes.CDLL(None).malloc_trim(0)  # else memory that is free but not given back would hide growth
            CLEAR.write_text("5")  # sets the peak to what is resident now
        before = resident("VmRSS")
    else:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    started = time.perf_counter()
    act()
    if device != "cpu":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    after = resident("VmHWM") if device == "cpu" else torch.cuda.max_memory_allocated()
    return seconds, max(0, after - before)


def resident(field: str) -> int:
    """Bytes of memory of this process: `VmRSS` now, `VmHWM` at the peak; the peak for both where Linux doesn't say."""
    if STATUS.exists():
        return 1024 * int(re.search(rf"{field}:\s+(\d+)", STATUS.read_text())[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
