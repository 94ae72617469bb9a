"""The allowance of checks: a small share of a run's training, and fewer events where a run is short."""

from dataclasses import replace

from outgrow.grow.policies.proportional import Proportional
from outgrow.train.account import Course, check_allowance
from outgrow.train.grower import Grower
from outgrow.train.recipe import Recipe


class Allowance:
    """What the checks of a run may take, by what its training takes; see `outgrow.train.account`.

    Args:
        grower: Whose checks; its `check_flops` is set.
        course: What the run does.
        events: How many growth events fitted when the run began; counted for the network as it is now where absent.

    Attributes:
        events: How many growth events fit: those that the course asks for, or fewer.
    """

    def __init__(self, grower: Grower, course: Course, events: int | None = None) -> None:
        self._grower, self._course = grower, course
        grower.check_flops = 1.0  # as little as can be
        least = grower.effort()
        fitting = course.fitting_events(grower.flops, grower.start_flops, least.flops + least.start)
        self.events = events or fitting
        self.renew_()

    @classmethod
    def of_run(cls, grower: Grower, steps: int, batch_size: int, events: int | None = None) -> "Allowance":
        """Make that of a run in someone else's loop; the default policy gets as many events as fit.

        Args:
            grower: Whose checks.
            steps: Steps of the run.
            batch_size: Examples of a step.
            events: How many growth events fitted when the run began, if it is resumed.

        Returns:
            The allowance.
        """
        policy = grower.policy
        share, wanted = (getattr(policy, name, getattr(Recipe, name)) for name in ("share", "events"))
        allowance = cls(grower, Course(steps, batch_size, 0, share, wanted), events)
        if isinstance(policy, Proportional):
            grower.policy = replace(policy, events=allowance.events)
        return allowance

    def renew_(self) -> None:
        """Set what the next check may take, for the network as it is now."""
        self._grower.check_flops = check_allowance(self._course.training(self.events, self._grower.flops))
