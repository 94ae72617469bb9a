"""The memory format in which networks for images compute."""

import torch
from torch import Tensor, nn

LINE = 16  # floats of a cache line


def laid_out(x: Tensor, net: nn.Module) -> Tensor:
    """Return images in the format in which a network is faster.

    That is channels last, but not in training for few channels on several threads of a CPU: there BatchNorm has a row
    of sums for each thread, and rows that share a cache line make threads wait for each other at every pixel (torch
    2.13).
    Not while a network is compiled or exported, either: the kernels are others there.

    Args:
        x: Images [examples, channels, height, width].
        net: Its first parameter is the kernel of its first layer.

    Returns:
        The same images, copied where they are in another format.

    Examples:
        >>> x = torch.zeros(2, 3, 8, 8)
        >>> laid_out(x, nn.Conv2d(3, 64, 3)).is_contiguous(memory_format=torch.channels_last)
        True
    """
    traced = torch.compiler.is_compiling() or not isinstance(x, Tensor)  # fx has a proxy for it
    kernel = None if traced else next(net.parameters(), None)
    narrow = kernel is not None and len(kernel) < LINE and kernel.device.type == "cpu"
    contiguous = narrow and net.training and torch.get_num_threads() > 1
    return x.to(memory_format=torch.contiguous_format if contiguous else torch.channels_last)
