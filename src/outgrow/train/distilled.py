"""Distillation: a small network learns from the targets, and from what a larger one answers."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from outgrow.data import Batches, Split
from outgrow.grow.curvature import Loss

TEMPERATURE = 3.0  # of the answers: above 1, also what the teacher holds for unlikely counts


@torch.no_grad()
def answers(teacher: nn.Module, x: Tensor, chunk: int, device: str) -> Tensor:
    """Return what a network in eval mode says of all examples, without augmentation.

    Args:
        teacher: The network.
        x: Inputs of a part, as a `Split` has them [examples, ...].
        chunk: Examples at once.
        device: Where the network is.

    Returns:
        Its outputs [examples, outputs].
    """
    part = Split(x, torch.arange(len(x)))
    return torch.cat([teacher.eval()(inputs) for inputs, _ in Batches(part, chunk, device=device)])


class Distilled:
    """The loss of a student: a mean of that of the targets and that of the teacher's answers.

    For a classification, with outputs z, answers a, temperature T (Hinton, Vinyals and Dean, arXiv 1503.02531):

        (1 - w) loss(z, y) + w T^2 KL(softmax(a / T) || softmax(z / T))

    and for a regression `(1 - w) loss(z, y) + w loss(z, a)`.

    Args:
        loss: Mean loss of outputs and targets.
        targets: Of all examples [examples, ...].
        answers: The teacher's [examples, outputs].
        weight: w, 0 to 1.

    Examples:
        >>> loss = Distilled(F.cross_entropy, torch.tensor([0, 1]), torch.tensor([[9.0, 0.0], [0.0, 9.0]]), weight=0.5)
        >>> float(loss(torch.tensor([[0.0, 9.0]]), torch.tensor([1]))) < 1e-3
        True
    """

    def __init__(self, loss: Loss, targets: Tensor, answers: Tensor, weight: float) -> None:
        self._loss, self._targets, self._answers, self._weight = loss, targets, answers, weight

    def __call__(self, z: Tensor, index: Tensor) -> Tensor:
        """Return the mean loss of outputs [batch, outputs] for the examples with these numbers [batch]."""
        return torch.lerp(
            self._loss(z, self._targets[index]), self._from_teacher(z, self._answers[index]), self._weight
        )

    def _from_teacher(self, z: Tensor, answer: Tensor) -> Tensor:
        if self._targets.is_floating_point():
            return self._loss(z, answer)
        soft = F.log_softmax(answer / TEMPERATURE, 1)
        loss = F.kl_div(F.log_softmax(z / TEMPERATURE, 1), soft, reduction="batchmean", log_target=True)
        return TEMPERATURE**2 * loss
