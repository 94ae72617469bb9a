"""Policies by name, ours and the user's, with options as text."""

import math
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass, replace
from typing import Any

from outgrow.errors import InputError
from outgrow.factory import imported
from outgrow.grow.policies.chance import RandomGrowth
from outgrow.grow.policies.firefly import Firefly
from outgrow.grow.policies.gradmax import GradMax
from outgrow.grow.policies.net2net import Net2Net
from outgrow.grow.policies.proportional import Proportional
from outgrow.grow.policies.schedule import Schedule
from outgrow.grow.policies.secnn import Secnn
from outgrow.grow.policies.senn import Senn
from outgrow.grow.policies.tiny import Tiny
from outgrow.grow.policy import Policy, Timetable
from outgrow.option import options_in, options_taken, values_of

Maker = Callable[[Timetable], Policy]
"""Makes a policy for a run."""

POLICIES: dict[str, Maker] = {
    "outgrow": Proportional.over,
    "senn": Senn.over,
    "senn-paper": Senn.paper,
    "secnn": Secnn.over,
    "secnn-paper": Secnn.paper,
    "gradmax": GradMax.over,
    "tiny": Tiny.over,
    "firefly": Firefly.over,
    "net2net": Net2Net.over,
    "schedule": Schedule.over,
    "random": RandomGrowth.over,
}


def policy_of(name: str, options: Mapping[str, str]) -> Maker:
    """Return what makes a policy for a run, by name.

    Args:
        name: One of `POLICIES`, or `package.module:Policy` of the user's own, also found in the current folder: a
            policy, or a function or class that makes one. It is called with the options as keywords. A class with a
            method `over` gets the timetable first; if it is a dataclass, the timetable alone, and its fields are the
            options.
        options: Options by name, as text; converted by the types of fields or arguments.

    Returns:
        A function of a run's timetable. A policy has been made once, to find errors before a run starts.

    Raises:
        InputError: There is no such policy or option, a text is no value of its option's type, or what is named makes
            no policy.

    Examples:
        >>> policy_of("random", {"factor": "2"})(Timetable(events=4, share=0.4, seed=7))
        RandomGrowth(events=4, share=0.4, factor=2.0, most=3.0, depth=0.0, seed=7)
    """
    if name in POLICIES:
        return _changed(name, POLICIES[name], options)
    if ":" not in name:
        raise InputError(
            f"unknown policy '{name}': choose one of {', '.join(POLICIES)}, or name your own as package.module:Policy"
        )
    found = imported(name, "Policy", "mypolicies.greedy:Greedy")
    timed = isinstance(found, type) and hasattr(found, "over")
    if not isinstance(found, type) and (_is_policy(found) or not callable(found)):  # nothing to call
        return _changed(name, _checked(name, lambda run: found), options)
    call = found.over if timed else found
    if timed and is_dataclass(found):
        return _changed(name, _checked(name, call), options)
    values = values_of(name, options, options_taken(call, timed))
    makes = _checked(name, lambda run: call(run, **values) if timed else call(**values))
    makes(Timetable())
    return makes


def options_of(policy: Policy) -> dict[str, Any]:
    """Return the options of a policy and their values, as JSON holds them, for the config of a run.

    Args:
        policy: Any policy.

    Returns:
        The fields of a dataclass, by name, what JSON can't hold as text; nothing of another class.

    Examples:
        >>> options_of(Schedule(events=4))
        {'events': 4, 'share': 0.15, 'factor': 1.5, 'most': 3.0, 'init': 'random'}
    """
    return {name: _plain(option.default) for name, option in options_in(policy).items()}


def _changed(name: str, makes: Maker, options: Mapping[str, str]) -> Maker:
    """What makes a policy, and then changes the options that are given."""
    values = values_of(name, options, options_in(makes(Timetable())))

    def changed(run: Timetable) -> Policy:
        made: Any = makes(run)
        return replace(made, **values) if values else made

    changed(Timetable())
    return changed


def _checked(name: str, makes: Callable[[Timetable], Any]) -> Maker:
    """What makes a policy, by code of the user's own."""

    def checked(run: Timetable) -> Policy:
        try:
            made = makes(run)
        except Exception as error:
            raise InputError(f"{name}: expected what makes a policy from its options, received: {error}") from error
        if not _is_policy(made):
            raise InputError(
                f"{name}: expected a policy, which has the methods propose and decide (see outgrow.grow.policy), or a "
                f"function or class that makes one, received {type(made).__name__}"
            )
        return made

    return checked


def _plain(value: Any) -> Any:
    """The value as JSON holds it, finite numbers only."""
    if value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, list | tuple):
        return tuple(map(_plain, value))
    return str(value)


def _is_policy(found: object) -> bool:
    return callable(getattr(found, "propose", None)) and callable(getattr(found, "decide", None))
