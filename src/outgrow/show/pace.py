"""The pace of a run, and from it the time that is left."""

from collections import deque


class Pace:
    """Steps against seconds over the recent past, since a network that grows gets slower as it goes.

    The recent past is the last 15 % of the time so far, and at least ten seconds of it.

    Args:
        share: The part of the time so far that counts as recent.
        least: Seconds that count in any case.

    >>> pace = Pace(least=1.0)
    >>> for step, seconds in ((0, 0.0), (100, 10.0), (110, 20.0)):
    ...     pace.note(step, seconds)
    >>> pace.left(120)
    10.0
    """

    def __init__(self, share: float = 0.15, least: float = 10.0) -> None:
        self._share, self._least = share, least
        self._seen: deque[tuple[int, float]] = deque()

    def note(self, step: int, seconds: float) -> None:
        """Note how far the run is.

        Args:
            step: Steps done since its start.
            seconds: Time since its start.
        """
        if self._seen and step < self._seen[-1][0]:
            self._seen.clear()  # it was taken up again at an earlier step
        if not self._seen or step > self._seen[-1][0]:
            self._seen.append((step, seconds))
        recent = seconds - max(self._least, self._share * seconds)
        while len(self._seen) > 2 and self._seen[1][1] <= recent:
            self._seen.popleft()

    def left(self, steps: int) -> float | None:
        """Estimate the time left at the recent pace.

        Args:
            steps: All steps of the run.

        Returns:
            Seconds, or None before there is anything to judge from.
        """
        if len(self._seen) < 2:
            return None
        (first, began), (last, now) = self._seen[0], self._seen[-1]
        return max(0.0, (steps - last) * (now - began) / (last - first))
