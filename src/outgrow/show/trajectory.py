"""The trajectory of the widths: the size of every axis from the seed network to the last record."""

from collections.abc import Iterable, Mapping, Sequence

from outgrow.show.record import RESIZES, Record, kind


def trajectory(records: Iterable[Record]) -> tuple[list[float], dict[str, list[int]]]:
    """Follow the axes through a journal.

    Args:
        records: The journal; epochs, starts and events tell sizes.

    Returns:
        The times [epochs], and for every axis its size from that time on; 0 before it was inserted and after it was
        removed. Axes stand in the network's order.

    >>> start = {"record": "start", "axes": {"a": 4}}
    >>> event = {"event": 1, "epoch": 1.5, "growths": [{"kind": "widen", "where": "a", "size_after": 6}]}
    >>> trajectory([start, event])
    ([0.0, 1.5], {'a': [4, 6]})
    """
    times: list[float] = []
    states: list[dict[str, int]] = []
    for record in records:
        now = dict(states[-1]) if states else {}
        match kind(record):
            case "start":
                epoch, now = float(record.get("epoch", 0)), dict(record["axes"])
            case "epoch":
                epoch, now = float(record["epoch"]), dict(record["axes"])
            case "event":
                epoch = float(record["epoch"])
                now |= {name: size for name, size in resized(record).items() if name in now}
            case _:
                continue
        times.append(epoch)
        states.append(now)
    return times, {name: [state.get(name, 0) for state in states] for name in in_order(states)}


def merged(times: Sequence[float], widths: Mapping[str, Sequence[int]]) -> tuple[list[float], dict[str, list[int]]]:
    """Leave out the times at which no axis changed, and all but the last of several records of one moment.

    Args:
        times: Times at which something is known [epochs], in rising order.
        widths: For every axis its size from each time on.

    Returns:
        The first time and those at which an axis changed, and the sizes from each on.

    >>> merged([0.0, 1.0, 1.5, 1.5, 2.0], {"a": [4, 4, 6, 8, 8]})
    ([0.0, 1.5], {'a': [4, 8]})
    """
    last = [index for index, time in enumerate(times) if [*times, None][index + 1] != time]
    states = list(zip(*widths.values(), strict=True))
    kept = [now for place, now in enumerate(last) if place == 0 or not states or states[now] != states[last[place - 1]]]
    return [times[index] for index in kept], {name: [sizes[index] for index in kept] for name, sizes in widths.items()}


def resized(event: Record) -> dict[str, int]:
    """Return the sizes that axes have after an event that widened them or removed units.

    Args:
        event: A growth event.

    Returns:
        The size of each axis that changed; the last one where an axis changed twice.
    """
    return {growth["where"]: growth["size_after"] for growth in event["growths"] if growth["kind"] in RESIZES}


def in_order(states: Iterable[Sequence[str] | dict[str, int]]) -> list[str]:
    """Merge lists of names into one order: a new name comes behind the one that it follows where it first appears.

    Args:
        states: Lists of names, or dicts, whose keys are taken.

    Returns:
        Every name once.

    >>> in_order([["a", "c"], ["a", "b", "c"]])
    ['a', 'b', 'c']
    """
    order: list[str] = []
    known: set[str] = set()
    for names in states:
        place = 0
        for name in names:
            if name not in known:
                order.insert(place, name)
                known.add(name)
            place = order.index(name) + 1
    return order
