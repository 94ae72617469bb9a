"""Stages: how a run is laid out that has to stop at sizes that a user wants."""

from collections.abc import Sequence
from dataclasses import replace

from outgrow.errors import InputError
from outgrow.grow.budget import Budget
from outgrow.grow.policies.pace import stages
from outgrow.grow.policies.proportional import Proportional
from outgrow.train.recipe import Recipe

SHARE = 0.6  # of a run in which the network grows, where its sizes have no other training than that until they are left


def staged(recipe: Recipe, budget: Budget, sizes: Sequence[int], params: int) -> tuple[Recipe, Budget]:
    """Return recipe and budget of a run that stops at some sizes.

    Args:
        recipe: The recipe of a run that is free.
        budget: The budget of one.
        sizes: Sizes that are wanted [parameters]; none for a run that is free.
        params: Parameters of the seed network.

    Returns:
        The recipe, with an event for each size and for those between them where a step would be too large, and the
        budget, with the largest size in it.

    Raises:
        InputError: A size is below the seed's, or above the budget.

    Examples:
        >>> recipe, budget = staged(Recipe(20, 32), Budget(), [2_000, 8_000], params=1_000)
        >>> recipe.events, budget
        (3, Budget(max_params=8000, max_flops=None, max_latency=None))
    """
    if not sizes:
        return recipe, budget
    if min(sizes) < params:
        raise InputError(f"expected sizes of at least the seed's {params:,} parameters, received {min(sizes):,}")
    if budget.max_params is not None and max(sizes) > budget.max_params:
        raise InputError(f"expected sizes within the budget of {budget}, received {max(sizes):,} parameters")
    events = max(len(stages(params, sizes, Proportional.most)), 1)
    return replace(recipe, events=events), replace(budget, max_params=max(sizes))
