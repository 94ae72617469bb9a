"""The account of a run: floating-point operations that were spent, that are left, and that a check may take.

With f the FLOPs of a forward pass of one example, of a network that stays as it is,

    a step of b examples      3 f b       forward, and backward for weights and inputs
    saving a size             f p         p examples settle its statistics
    the rest of the run       f r         r = 3 b (steps left) + p

All of it is counted, not timed, so that seeded runs repeat.

Where S is the most that the run may spend, s what it has spent, and c what a check takes, a check leaves S - s - c. It
may happen where that is at least f r. If it then finds that the network should grow, the size is saved first, and of
the larger network there is another check; so f may become at most

    f' = (S - s - c - f p) / (r + c / f).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from outgrow.errors import InputError
from outgrow.grow.event import Event

CHECK_SHARE = 0.02  # of the cost of training, for as many examples as that buys
FREE_FLOPS, FREE_SHARE = 6e9, 0.1  # what a check of a short run may take: 0.1 s on two cores, or that share
MOST_CHECK_SHARE = 0.08  # for the least examples; where even they cost more, there are fewer events
CHECK_MARGIN = 1.5  # times what a check is said to take, set aside for it where training FLOPs are limited
STEPS_BETWEEN = 50  # at least, between two events: new units need some training before the next come


@dataclass(frozen=True)
class Course:
    """What a run does, whatever the network.

    Args:
        steps: Steps of training.
        batch_size: Examples of a step.
        saving: Examples that the statistics of a saved size take, in a forward pass each.
        share: Share of the steps in which the network grows.
        events: How many growth events are wanted in that time.

    Examples:
        >>> course = Course(steps=1_000, batch_size=32, saving=500, share=0.3, events=8)
        >>> course.passes_left(step=990), course.fitting_events(flops=2_000, start=0.0, check=1e6)
        (1460, 6)
    """

    steps: int
    batch_size: int
    saving: int
    share: float
    events: int

    def passes_left(self, step: int) -> int:
        """Return what the rest from a step on takes, with saving the last size, in forward passes of one example."""
        return 3 * (self.steps - step) * self.batch_size + self.saving

    def training(self, events: int, flops: int, start: float = 0.0) -> float:
        """Return what the training costs for each of so many events.

        Args:
            events: How many.
            flops: Forward FLOPs of one example.
            start: What starting all modules once costs, in the FLOPs that could be done meanwhile; 0 for operations
                alone.

        Returns:
            FLOPs, those included.
        """
        return self.steps / events * 3 * (flops * self.batch_size + start)

    def fitting_events(self, flops: int, start: float, check: float) -> int:
        """Return how many events fit: as many as are wanted, or fewer where the run is too short for them.

        Args:
            flops: Forward FLOPs of one example.
            start: What starting all modules once costs, in the FLOPs that could be done meanwhile.
            check: What the smallest check takes, starting modules too [flops].

        Returns:
            At least one.
        """
        most = max(min(self.events, int(self.share * self.steps / STEPS_BETWEEN)), 1)
        fitting = (n for n in range(most, 1, -1) if check <= MOST_CHECK_SHARE * self.training(n, flops, start))
        return next(fitting, 1)


def check_allowance(training: float) -> float:
    """Return how many operations a check may take, given those of the training for each event [flops]."""
    return max(CHECK_SHARE * training, min(FREE_FLOPS, FREE_SHARE * training))


@dataclass
class Account:
    """What a run has spent, and what it may spend yet.

    Args:
        course: What the run does.
        limit: Floating-point operations that the whole run may take, checks included; None for no limit.
        train_flops: What all of it took so far, checks included.
        check_seconds: Time of checks so far.
        check_flops: Floating-point operations of checks so far.

    Examples:
        >>> account = Account(Course(steps=10, batch_size=8, saving=16, share=0.5, events=1), limit=100_000)
        >>> account.train(flops=200, examples=8)
        >>> account.train_flops, account.most_after_check(flops=200, step=1, check=lambda: 5_000)
        (4800, 313)
    """

    course: Course
    limit: float | None = None
    train_flops: int = 0
    check_seconds: float = 0.0
    check_flops: int = 0
    _early: int = field(default=0, init=False)  # of the check that is under way, what is counted already
    _expected: int = field(default=0, init=False)  # of the check that was asked for last
    _dearest: float = field(default=1.0, init=False)  # what a check took, as a multiple of that, at most so far

    def train(self, flops: int, examples: int) -> None:
        """Count a step on some examples of a network with so many forward FLOPs an example."""
        self.train_flops += 3 * flops * examples

    def settle(self, flops: int) -> None:
        """Count the statistics of averaged weights that are saved or judged."""
        self.train_flops += flops * self.course.saving

    def check_early(self, flops: int) -> None:
        """Count a check before the growth that it leads to, so that the size that is saved between tells of it."""
        self._spend_on_check(flops)
        self._early += flops

    def check(self, events: Sequence[Event]) -> None:
        """Count the events of one moment, as far as they were not counted early, and learn from what they took."""
        self._spend_on_check(sum(event.flops for event in events) - self._early)
        self._early = 0
        self.check_seconds += sum(event.seconds for event in events)
        if events and self._expected:
            self._dearest = max(self._dearest, max(event.flops for event in events) / self._expected)

    def spent(self) -> dict[str, float]:
        """Return what all of it, and the checks of it, took so far."""
        return {
            "train_flops": self.train_flops,
            "check_seconds": self.check_seconds,
            "check_flops": self.check_flops,
        }

    def to_json(self) -> dict[str, float]:
        """Return what was spent, and what is known of checks, as `restore_` takes it."""
        return {name: value for name, value in vars(self).items() if name not in ("course", "limit")}

    def restore_(self, values: Mapping[str, float]) -> None:
        """Go on from what `to_json` gave."""
        vars(self).update(values)

    def demand_affordable(self, flops: int, epochs: int) -> None:
        """Check that the seed can be trained all the way.

        Args:
            flops: Its forward FLOPs of one example.
            epochs: How many epochs the course has, for the message.

        Raises:
            InputError: It can't.
        """
        least = flops * self.course.passes_left(0)
        if self.limit is not None and least > self.limit:
            raise InputError(
                f"training the seed for {epochs} epochs takes {least:.3g} FLOPs, more than the budget of "
                f"{self.limit:.3g}"
            )

    def most_after_check(self, flops: int, step: int, check: Callable[[], int]) -> float:
        """Return how many forward FLOPs the network may have after a check, so that the rest stays affordable.

        Args:
            flops: What it has now, for one example.
            step: Steps done.
            check: Says about how many floating-point operations a check takes.

        Returns:
            FLOPs of one example, at least 1; 0 where the check itself is not affordable, infinity without a limit.
        """
        if self.limit is None:
            return math.inf
        self._expected = check()
        left = self.limit - self.train_flops - self._checking
        if left < flops * self.course.passes_left(step):
            return 0
        return self._most(left - flops * self.course.saving, step, self._checking / flops)

    def most_after_growth(self, flops: int, step: int) -> float:
        """Return the same once a check is counted and the size is saved, but for a policy that looks again at once.

        Two more checks like the last one, of what has grown, are set aside then. Args and returns are those of
        `most_after_check`.
        """
        if self.limit is None:
            return math.inf
        return self._most(self.limit - self.train_flops, step, 2 * self._checking / flops)

    def _most(self, left: float, step: int, passes: float) -> int:
        """The largest network whose training to the end, and so many passes beside, what is left affords."""
        return max(int(left / (self.course.passes_left(step) + passes)), 1)

    @property
    def _checking(self) -> float:
        """What the check that was asked for last takes at most."""
        return CHECK_MARGIN * self._dearest * self._expected

    def _spend_on_check(self, flops: int) -> None:
        self.check_flops += flops
        self.train_flops += flops
