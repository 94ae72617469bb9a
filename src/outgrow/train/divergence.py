"""Divergence: a loss that is no longer a finite number."""

FINITE_EVERY = 16  # steps between two looks whether the loss is finite


class DivergedError(RuntimeError):
    """The loss is no longer a finite number."""
