"""Which of torch's kernels run."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def fast_path(on: bool) -> Iterator[None]:
    """Let transformer encoder layers run as one fused kernel, or not: in eval mode, without gradients and hooks.

    That kernel calls none of their parts, makes nested tensors of padded ones, and its FLOPs are not counted.
    """
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(on)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def unfused() -> Iterator[None]:
    """Keep torch from fused kernels of encoder layers, attention and recurrent layers, which its counter leaves out."""
    libraries: tuple[Any, ...] = torch.backends.mkldnn, torch.backends.cudnn
    before = [library.enabled for library in libraries]
    for library in libraries:
        library.enabled = False
    try:
        with fast_path(False), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        for library, enabled in zip(libraries, before, strict=True):
            library.enabled = enabled
