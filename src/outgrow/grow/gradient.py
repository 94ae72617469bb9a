"""The gradient of the mean loss with respect to parameters."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from outgrow.grow.objective import Objective, pulled_back
from outgrow.grow.sample import Batch, examples_in


@torch.enable_grad()
def mean_gradients(
    model: nn.Module, names: Iterable[str], batches: Sequence[Batch], objective: Objective
) -> dict[str, Tensor]:
    """Return gradients of the mean loss, in one forward and one backward pass over the batches.

    Args:
        model: Run as it is; its own gradients are left alone.
        names: Parameters.
        batches: The examples.
        objective: What the model is trained for.

    Returns:
        The gradient by name [as the parameter], in float64; of frozen parameters there is none.
    """
    parameters = {name: model.get_parameter(name) for name in names}
    parameters = {name: parameter for name, parameter in parameters.items() if parameter.requires_grad}
    sums = {name: torch.zeros_like(parameter, dtype=torch.float64) for name, parameter in parameters.items()}
    total = examples_in(batches)
    for batch in batches if parameters else ():
        answer = objective.answer(model, batch)
        seeds = [gradient / total for gradient in answer.gradient()]
        grads = pulled_back(answer, [*parameters.values()], seeds)
        for name, grad in zip(parameters, grads, strict=True):
            sums[name] += 0.0 if grad is None else grad
    return sums
