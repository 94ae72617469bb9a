"""The allowance of checks: a small share of a run's training, and fewer events where a run is short."""

from outgrow.train.account import Course, check_allowance
from outgrow.train.grower import Grower


class Allowance:
    """What the checks of a run may take, by what its training takes; see `outgrow.train.account`.

    Args:
        grower: Whose checks; its `check_flops` is set.
        course: What the run does.

    Attributes:
        events: How many growth events fit: those that the course asks for, or fewer.
    """

    def __init__(self, grower: Grower, course: Course) -> None:
        self._grower, self._course = grower, course
        grower.check_flops = 1.0  # as little as can be
        least = grower.effort()
        self.events = course.fitting_events(grower.flops, grower.start_flops, least.flops + least.start)
        self.renew_()

    def renew_(self) -> None:
        """Set what the next check may take, for the network as it is now."""
        self._grower.check_flops = check_allowance(self._course.training(self.events, self._grower.flops))
