"""Changes: the events at which a network grew or shrank, as marks in a picture."""

from markupsafe import Markup

from outgrow.show import quantity
from outgrow.show.lines import change
from outgrow.show.record import Record
from outgrow.show.svg import GREEN, RED, mark, reach, symbol

CHANGES = {"growth": ("up", GREEN), "removal": ("down", RED)}
"""Symbol and colour of each kind of event that changed the network."""


def kind_of(event: Record) -> str:
    """Name the kind of an event that changed the network: a removal where nothing grew.

    >>> kind_of({"growths": [{"kind": "remove"}]}), kind_of({"growths": [{"kind": "widen"}, {"kind": "remove"}]})
    ('removal', 'growth')

    Args:
        event: A record of an event.

    Returns:
        A key of CHANGES.
    """
    return "removal" if all(growth["kind"] == "remove" for growth in event["growths"]) else "growth"


def event_mark(event: Record, x: float, y: float) -> Markup:
    """Mark an event that changed the network; the mark tells what it did.

    Args:
        event: A record of an event.
        x: Where the mark stands [pixels].
        y: Where the mark stands [pixels].

    Returns:
        The mark.
    """
    shape, colour = CHANGES[kind_of(event)]
    lines = [f"event {event['event']}", f"epoch {event['epoch']:.1f}", *map(written, event["growths"])]
    return mark(lines, symbol(shape, x, y, colour), reach(x, y, 9), data_event=event["event"])


def written(growth: Record) -> str:
    """Write a growth for a page: on one line, with an arrow from size to size.

    >>> written({"kind": "widen", "where": "fc1", "size_before": 8, "size_after": 12})
    'grew fc1 8 → 12'

    Args:
        growth: One growth of an event.

    Returns:
        The text.
    """
    return quantity.clean(change(growth)).replace("->", "→")
