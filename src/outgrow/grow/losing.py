"""What a network loses with units: the natural expansion score read backwards.

A layer reads features a [features] with covariance A through weights W [outputs, features], and its outputs have the
Fisher factor S, so that a change D of W costs 1/2 Tr(S D A D^T) [nats] in the local quadratic model under K-FAC. The
gradient is left out, being zero where training has converged; before, removals undo what it still adds to and cost more
than this says, which orders units and decides nothing. Of all changes that take the features r out, D_r = -W_r, the
cheapest is that of Optimal Brain Surgeon (Hassibi and Stork, NeurIPS 1992), in groups and with a Kronecker-factored
matrix (Wang et al., arXiv 1905.05934):

    D = -W_r ([A^-1]_rr)^-1 [A^-1]_r,:          cost = 1/2 Tr(S W_r ([A^-1]_rr)^-1 W_r^T)

For: the derivative S D A + (multipliers on the columns r) = 0 says that D A is zero in all columns k that stay, so
D = M [A^-1]_r,: for some M, and D_r = -W_r sets M. S falls out: whatever the outputs are worth, W changes alike. With
([A^-1]_rr)^-1 = A_rr - A_rk A_kk^-1 A_kr, the inverse of a block being a Schur complement, it is least squares,

    B      = A_rk A_kk^-1                       regression of the features that go on those that stay
    W_k'   = W_k + W_r B,                       bias' = bias + W_r (mean_r - B mean_k)
    A_perp = E[(a_r - B a_k)(a_r - B a_k)^T],   cost = 1/2 Tr(S W_r A_perp W_r^T)

the mirror of the score of new features, Tr(S^-1 C A_perp^-1 C^T): redundant features are as cheap to take out as they
are worthless to add. A is centred where a bias takes over the constant, and the second moment where none can. A feature
whose variance may be the rounding of its second moment counts as constant: the rest of its row of A would be noise.

Units go one after the other, the cheapest first, summed over the layers that read them. Taking q out of what is left
leaves, with P = A^-1,

    P - P_:q P_qq^-1 P_q:    and    W - W_q P_qq^-1 P_q:

so that of two copies only the first is free.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from outgrow.grow.moments import Moments
from outgrow.grow.score import solve
from outgrow.grow.weights import matrix_of, weights_of
from outgrow.net.axis import Axis
from outgrow.net.remove import Removal
from outgrow.net.surgery import tensors_of

ROUNDING = 300  # times machine precision: what a sum of equal products may owe to rounding; 136 were seen


@dataclass(frozen=True)
class Reader:
    """A layer that reads units, in float64.

    Args:
        A: Covariance of the features, or their second moment [features, features].
        S: Fisher factor of the outputs [outputs, outputs], or its diagonal [outputs].
        W: Weights [outputs, features].
        mean: Means of the features where a bias takes over the constant, else zeros [features].
        places: The features of each unit [units, entries].
        ridge: Share of each feature's variance that is added to it in the regression.
    """

    A: Tensor
    S: Tensor
    W: Tensor
    mean: Tensor
    places: Tensor
    ridge: float = 0.0

    @classmethod
    def of(cls, module: nn.Module, moments: Moments, channels: Tensor) -> "Reader":
        """Read a layer and its moments.

        A regression on k features from n rows has noise of k / n in it. The ridge of (k / n)^2 is nothing where rows
        abound, and all of the variance where there are as few as features. (On ReLU features, 16 or 64 of 8 to 50
        inputs and 12 seeds each, it lost on fresh rows a sixth to ninetieth of what none loses at n = k, and at most
        5 % more than none at any n from k / 2 to 32 k.)

        Args:
            module: A linear layer or ungrouped convolution.
            moments: Of what it reads; expand's, since least squares is over positions, not over their means.
            channels: The input channels of each unit [units, channels].

        Returns:
            The reader; its features are all but the constant.
        """
        A, W = moments.A.double(), matrix_of(module, weights_of(module)).detach().double()
        mean, second = torch.zeros_like(A[0]), A.diagonal()
        if moments.bias:
            rows = A[-1, -1].clamp_min(torch.finfo(A.dtype).tiny)
            if moments.bias_moves:
                mean = A[-1] / rows
            A, W, mean = (A - rows * mean.outer(mean))[:-1, :-1], W[:, :-1], mean[:-1]
        products = torch.promote_types(weights_of(module)[0].dtype, torch.float32)  # what moments are summed of
        varies = A.diagonal() > ROUNDING * torch.finfo(products).eps * second[: len(A)]
        A = torch.where(varies[:, None] & varies, A, 0.0)
        places = moments.features_of(channels.flatten()).reshape(len(channels), -1)
        ridge = (len(A) / max(moments.rows, 1)) ** 2
        return cls(A, moments.S.double(), W, mean, places, max(ridge, torch.finfo(moments.A.dtype).eps))

    def cost(self, units: Tensor) -> float:
        """Return what the removal of units costs with compensation [nats].

        Examples:
            >>> A = torch.eye(3).double()
            >>> W = torch.tensor([[3.0, 0.0, 2.0]]).double()
            >>> reader = Reader(A, A[:1, :1], W, W[0] * 0, torch.arange(3)[:, None])
            >>> [reader.cost(torch.tensor([unit])) for unit in range(3)]
            [4.5, 0.0, 2.0]
        """
        gone, kept, B = self._regression(units)
        Akr = self.A[kept][:, gone]
        perp = self.A[gone][:, gone] - B @ Akr - Akr.mT @ B.mT + B @ self.A[kept][:, kept] @ B.mT
        return max(float((self.weighted(self.W[:, gone]) * (self.W[:, gone] @ perp)).sum()) / 2, 0.0)

    def compensated(self, units: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weights [outputs, features], those of what goes as they are, and what the bias gains [outputs]."""
        gone, kept, B = self._regression(units)
        W = self.W.clone()
        W[:, kept] += W[:, gone] @ B
        return W, self.W[:, gone] @ (self.mean[gone] - B @ self.mean[kept])

    def weighted(self, W: Tensor) -> Tensor:
        """Return S W [outputs, features]."""
        return self.S[:, None] * W if self.S.ndim == 1 else self.S @ W

    def correlations(self) -> tuple[Tensor, Tensor]:
        """Return A in units of each feature's deviation, and these [features]; 1 for features that never change."""
        variance = self.A.diagonal()
        scale = torch.where(variance > 0, variance, 1.0).sqrt()
        return self.A / scale.outer(scale), scale

    def _regression(self, units: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Which features go [removed] and stay [kept], and the coefficients B [removed, kept]."""
        gone = self.places[units].flatten()
        stays = torch.ones(len(self.A), dtype=torch.bool)
        stays[gone] = False
        kept = stays.nonzero().flatten()
        C, scale = self.correlations()
        B = solve(C[kept][:, kept], C[kept][:, gone], self.ridge).mT
        return gone, kept, scale[gone][:, None] * B / scale[kept]


def cheapest(readers: Sequence[Reader], count: int) -> Tensor:
    """Return the units to take out, the cheapest first, each given those before it.

    Args:
        readers: Every layer that reads them, with the same units; at least one.
        count: How many, fewer than there are.

    Returns:
        The units' numbers [count]; the first k are the choice of any k.

    Examples:
        >>> A = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]).double()  # the first two are copies
        >>> W = torch.tensor([[4.0, 5.0, 1.0]]).double()
        >>> cheapest([Reader(A, A[:1, :1], W, W[0] * 0, torch.arange(3)[:, None])], 2).tolist()
        [0, 2]
    """
    left = [_Left(reader) for reader in readers]
    order: list[int] = []
    for _ in range(count):
        costs = torch.stack([one.costs() for one in left]).sum(0)
        costs[order] = torch.inf
        order.append(int(costs.argmin()))
        for one in left:
            one.drop(order[-1])
    return torch.tensor(order, dtype=torch.long)


def readers_of(model: nn.Module, moments: Mapping[str, Moments], axis: Axis) -> list[Reader]:
    """Return the layers that read an axis, as they read its units; those without moments are left out."""
    channels: dict[str, list[Tensor]] = {}
    for member in axis.consumers:
        if member.module in moments:
            channels.setdefault(member.module, []).append(member.index)
    return [Reader.of(model.get_submodule(path), moments[path], torch.cat(at, 1)) for path, at in channels.items()]


def stand_ins(model: nn.Module, moments: Mapping[str, Moments], removals: Sequence[Removal]) -> dict[str, Tensor]:
    """Return the weights with which what stays stands in for what goes, of all axes together.

    Args:
        model: Whose weights they are.
        moments: Of what the layers that read the axes read in this model.
        removals: At most one for an axis.

    Returns:
        By name, weights and biases in the shapes that they have before the removals.
    """
    gone: dict[str, list[Tensor]] = {}
    for removal in removals:
        for member in removal.axis.consumers:
            if member.module in moments:
                gone.setdefault(member.module, []).append(removal.places(member))
    names = {id(tensor): name for name, tensor in tensors_of(model).items()}
    found: dict[str, Tensor] = {}
    for path, parts in gone.items():
        module = model.get_submodule(path)
        weight, *biases = weights_of(module)
        reader = Reader.of(module, moments[path], torch.cat(parts).unique()[:, None])
        W, shift = reader.compensated(torch.arange(len(reader.places)))
        found[names[id(weight)]] = W.view(weight.shape).to(weight.dtype)
        for bias in biases if moments[path].bias_moves else ():
            found[names[id(bias)]] = (bias.detach() + shift).to(bias.dtype)
    return found


class _Left:
    """What is left of a reader after some units have gone, in units of each feature's deviation.

    The ridge is at least the root of the rounding error, so that P, up to 1 / ridge, can be downdated.
    """

    def __init__(self, reader: Reader) -> None:
        C, scale = reader.correlations()
        one = torch.eye(len(C)).to(C)
        C = torch.where(C.diagonal() > 0, C, one) if bool(C.isfinite().all()) else one
        factor = torch.linalg.cholesky(C + max(reader.ridge, torch.finfo(C.dtype).eps ** 0.5) * one)
        self._P, self._places = torch.cholesky_inverse(factor), reader.places
        dead = reader.A.diagonal() <= 0
        self._W = (reader.W * scale).masked_fill(dead, 0.0)
        self._SW = reader.weighted(self._W)

    def costs(self) -> Tensor:
        """Return what the removal of each unit costs now [units]."""
        at = self._places
        blocks = self._P[at[:, :, None], at[:, None, :]]
        Q = torch.einsum("oue,ouf->uef", self._W[:, at], self._SW[:, at])
        return torch.linalg.solve(blocks, Q).diagonal(dim1=1, dim2=2).sum(1) / 2

    def drop(self, unit: int) -> None:
        """Take a unit out; the others stand in for it."""
        at = self._places[unit]
        share = torch.linalg.solve(self._P[at][:, at], self._P[at])
        for matrix in (self._W, self._SW, self._P):
            matrix -= matrix[:, at] @ share
            matrix[:, at] = 0.0
        self._P[at] = 0.0
        self._P[at, at] = 1.0
