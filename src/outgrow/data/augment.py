"""Random crops and flips of a whole batch at once, driven by one generator.

A crop of a padded image and a mirror image are both a choice of rows and columns, so the whole augmentation is two
tables of indices and one gather. It works on uint8 and never makes the padded images.
"""

import torch


def augment(x: torch.Tensor, pad: int, generator: torch.Generator | None = None) -> torch.Tensor:
    """Shift each image by up to `pad` pixels in both directions and mirror half of them.

    What moves in at the border is the image mirrored there.

    Args:
        x: Images of any type, `[b, channels, height, width]`.
        pad: The largest shift, smaller than height and width; 0 only mirrors.
        generator: The only source of chance; equal states, equal results bit for bit, on any device.

    Returns:
        New images of the same shape and type.

    Raises:
        ValueError: The shift does not fit into the image.

    Example:
        >>> x = torch.arange(4).reshape(1, 1, 1, 4)
        >>> augment(x, 0, torch.Generator().manual_seed(0)).flatten().tolist() in ([0, 1, 2, 3], [3, 2, 1, 0])
        True
    """
    batch, _, height, width = x.shape
    if not 0 <= pad < min(height, width):
        raise ValueError(f"a shift of {pad} pixels does not fit into images of {height} x {width}")
    down, right = _draw(2 * pad + 1, (2, batch), generator) - pad
    mirrored = _draw(2, (batch,), generator).bool()
    rows = torch.arange(height) + down[:, None]
    columns = torch.arange(width) + right[:, None]
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    return take(x, reflect(rows, height), reflect(columns, width))


def take(x: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Choose rows and columns of each image.

    Args:
        x: Images `[b, channels, height, width]`.
        rows: Indices `[b, height']`.
        columns: Indices `[b, width']`.

    Returns:
        Images `[b, channels, height', width']`.
    """
    batch, channels, _, width = x.shape
    places = (rows[:, :, None] * width + columns[:, None, :]).flatten(1).to(x.device)  # [b, height' * width']
    taken = x.flatten(2).gather(2, places[:, None].expand(-1, channels, -1))
    return taken.reshape(batch, channels, rows.shape[1], columns.shape[1])


def reflect(index: torch.Tensor, size: int) -> torch.Tensor:
    """Fold indices outside of `0..size-1` back in, as a mirror at the border pixel does.

    Args:
        index: Integers between `1 - size` and `2 * size - 2`.
        size: The number of positions.

    Returns:
        Indices in `0..size-1`.

    Example:
        >>> reflect(torch.tensor([-2, -1, 0, 1, 2, 3, 4]), 3).tolist()
        [2, 1, 0, 1, 2, 1, 0]
    """
    return (size - 1) - ((size - 1) - index.abs()).abs()


def _draw(below: int, shape: tuple[int, ...], generator: torch.Generator | None) -> torch.Tensor:
    """Integers in `0..below-1` on the CPU, whichever device the generator is on."""
    device = generator.device if generator is not None else torch.device("cpu")
    return torch.randint(below, shape, generator=generator, device=device).cpu()
