"""A fixed per-channel affine map, so that a network takes and gives the user's own units."""

from torch import Tensor, nn


class Affine(nn.Module):
    """Multiply and shift each channel by constants: `y = x * scale + shift`.

    Args:
        scale: Factor of each channel [channels].
        shift: What is added to each channel [channels].
        dims: Number of dimensions behind the channels: 0 for tables, 2 for images.

    Examples:
        >>> import torch
        >>> net = Affine.standardize(torch.tensor([2.0]), torch.tensor([4.0]), dims=0)
        >>> net(torch.tensor([[10.0]]))
        tensor([[2.]])
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, scale: Tensor, shift: Tensor, dims: int = 0) -> None:
        super().__init__()
        trailing = (1,) * dims
        self.register_buffer("scale", scale.clone().view(-1, *trailing))
        self.register_buffer("shift", shift.clone().view(-1, *trailing))

    @classmethod
    def standardize(cls, mean: Tensor, std: Tensor, dims: int) -> "Affine":
        """`(x - mean) / std`, for the input of a network."""
        return cls(1 / std, -mean / std, dims)

    def forward(self, x: Tensor) -> Tensor:
        """Map `x` [examples, channels, ...] to the same shape."""
        return x * self.scale + self.shift
