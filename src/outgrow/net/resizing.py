"""Attributes that go with the size of an axis, set to what they are with more units or fewer."""

from collections.abc import Callable, Iterable, Sequence

from torch import nn

from outgrow.net.axis import Axis
from outgrow.net.gains import Gain
from outgrow.net.setting import Setting, apply_settings_


def resized_(model: nn.Module, resizes: Sequence[tuple[Axis, int]]) -> tuple[tuple[Setting, ...], Callable[[], None]]:
    """Set the attributes that change with axes: numbers of heads and the like, and the eps of RMS norms.

    Args:
        model: Changed in place.
        resizes: Axes as they were, and how many units each has more, negative for fewer.

    Returns:
        What was set, and a function that puts the old values back.
    """
    done: list[Setting] = []
    undo: list[Callable[[], None]] = []

    def put_back() -> None:
        while undo:
            undo.pop()()

    try:
        for axis, units in resizes:
            scaled = [scaled.after(model, units) for scaled in axis.settings]
            epsilons = [
                Setting(
                    gain.module, gain.attribute, gain.eps_now(model) * Gain.factor(axis.size, axis.size + units) ** 2
                )
                for gain in axis.gains
                if gain.attribute
            ]
            undo.append(apply_settings_(model, [*scaled, *epsilons]))
            done += [*scaled, *epsilons]
    except Exception:
        put_back()
        raise
    return tuple(done), put_back


def settings_of(model: nn.Module, axes: Iterable[Axis]) -> list[Setting]:
    """Return what the attributes that go with axes are now.

    Args:
        model: A network.
        axes: Its axes.

    Returns:
        Each attribute once; an eps that is None has never changed, and is left out.
    """
    axes = list(axes)
    places = [(scaled.module, scaled.attribute) for axis in axes for scaled in axis.settings]
    places += [(gain.module, gain.attribute) for axis in axes for gain in axis.gains if gain.attribute]
    found = [Setting(*place, Setting(*place, 0).read(model)) for place in dict.fromkeys(places)]
    return [setting for setting in found if setting.value is not None]
