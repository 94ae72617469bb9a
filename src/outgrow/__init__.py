"""Neural networks that find their own size: train once, grow while training, keep a checkpoint at every size."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from outgrow.errors import EditError as EditError
    from outgrow.errors import GrowthError as GrowthError
    from outgrow.errors import InputError as InputError
    from outgrow.grow.event import Candidate as Candidate
    from outgrow.grow.event import Event as Event
    from outgrow.grow.policies.proportional import Proportional as Proportional
    from outgrow.grow.policy import Decision as Decision
    from outgrow.grow.policy import Plan as Plan
    from outgrow.grow.policy import Policy as Policy
    from outgrow.grow.policy import Present as Present
    from outgrow.grow.policy import Situation as Situation
    from outgrow.grow.policy import Timetable as Timetable
    from outgrow.net.axes import axes as axes
    from outgrow.net.axis import Axis as Axis
    from outgrow.net.deepen import deepen_ as deepen_
    from outgrow.net.edit import Edit as Edit
    from outgrow.net.places import Place as Place
    from outgrow.net.places import places as places
    from outgrow.net.remove import remove_ as remove_
    from outgrow.net.widen import widen_ as widen_
    from outgrow.train.family import Family as Family
    from outgrow.train.family import load as load
    from outgrow.train.grower import Grower as Grower

__version__ = "0.1.0"

_HOME = {
    "Axis": "outgrow.net.axis",
    "Candidate": "outgrow.grow.event",
    "Edit": "outgrow.net.edit",
    "EditError": "outgrow.errors",
    "Event": "outgrow.grow.event",
    "Family": "outgrow.train.family",
    "Grower": "outgrow.train.grower",
    "GrowthError": "outgrow.errors",
    "InputError": "outgrow.errors",
    "Decision": "outgrow.grow.policy",
    "Plan": "outgrow.grow.policy",
    "Policy": "outgrow.grow.policy",
    "Present": "outgrow.grow.policy",
    "Situation": "outgrow.grow.policy",
    "Timetable": "outgrow.grow.policy",
    "Proportional": "outgrow.grow.policies.proportional",
    "axes": "outgrow.net.axes",
    "Place": "outgrow.net.places",
    "deepen_": "outgrow.net.deepen",
    "load": "outgrow.train.family",
    "places": "outgrow.net.places",
    "remove_": "outgrow.net.remove",
    "widen_": "outgrow.net.widen",
}

__all__ = ["__version__", *_HOME]  # the names above


def __getattr__(name: str) -> Any:
    """Import what is asked for, so that the command line does not wait for torch."""
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'outgrow' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
