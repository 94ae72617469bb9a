"""The headline of a report: the sentence that matters, its cost, and the key figures."""

from dataclasses import dataclass

from outgrow.show import quantity
from outgrow.show.front import shown_part
from outgrow.show.record import GOOD_END, Record, kind, pareto
from outgrow.show.run import Run
from outgrow.show.spending import cost_words

TELLING = {"start", "epoch", "event"}
"""Records that tell how large the network is; a size may be of a moment before."""


@dataclass(frozen=True)
class Headline:
    """What stands at the top.

    Args:
        title: What was learned.
        sentence: From which seed network and how many parameters to how many, and what the best size reaches.
        cost: What it took; empty before anything did.
        warning: Why the run is not whole; empty where it is.
        figures: Name, value and remark of each key figure.
    """

    title: str
    sentence: str
    cost: str
    warning: str
    figures: list[tuple[str, str, str]]


def headline(run: Run) -> Headline:
    """Say what matters of a run.

    Args:
        run: The run.

    Returns:
        The headline.
    """
    title = f"{quantity.clean(run.start['data'])}: a network that grew"
    cost = cost_words(run)
    return Headline(title, _sentence(run), f"It took {cost}." if cost else "", _warning(run), _figures(run))


def _sentence(run: Run) -> str:
    start, first, now = f"Starting as {quantity.clean(run.start['model'])}", run.start["params"], _now(run)
    grew = f"it grew from {first:,} to {quantity.count(now, 'parameter')}"
    told = grew if now != first else f"it stayed at {quantity.count(now, 'parameter')}"
    if (last := _last(run)) < now:
        told += f" and shrank to {last:,}"
    if run.best is None:
        return f"{start}, {told}; no size is saved."
    part = shown_part([run.best])
    value = quantity.metric(run.metric, run.best[part].get(run.metric), 2)
    best = "its largest size" if run.best["params"] == now else f"its best size, {run.best['params']:,} parameters,"
    best = "its only size" if len(run.sizes) == 1 else best
    return f"{start}, {told}; {best} reaches a {part} {quantity.metric_title(run.metric)} of {value}."


def _now(run: Run) -> int:
    states: list[Record] = [*run.sizes[-1:], *run.epochs[-1:]]
    return max((int(state["params"]) for state in states), default=run.start["params"])


def _last(run: Run) -> int:
    """Parameters at the end, as an epoch or an event tells them."""
    told = (record.get("params_after", record.get("params")) for record in run.records[::-1] if kind(record) in TELLING)
    return next(int(params) for params in told if params is not None)


def _warning(run: Run) -> str:
    if run.end is None:
        return "The run has not ended: it is still going on, or it broke off."
    return "" if run.end["reason"] == GOOD_END else f"The run ended early: {quantity.clean(run.end['reason'])}."


def _figures(run: Run) -> list[tuple[str, str, str]]:
    sizes, total = run.sizes, run.total
    figures: list[tuple[str, str, str]] = []
    if run.best is not None:
        part = shown_part([run.best])
        value = quantity.metric(run.metric, run.best[part].get(run.metric), 2)
        figures.append((f"{part} {quantity.metric_title(run.metric)}", value, "of the best size by validation"))
    figures.append(("parameters", quantity.count(_now(run)), f"from {quantity.count(run.start['params'])}"))
    front = len(pareto(sizes, run.metric))
    figures.append(("sizes saved", quantity.count(len(sizes)), f"{front} that no smaller one matches"))
    if quantity.known(total.get("train_flops")):
        figures.append(("compute", quantity.short(total["train_flops"], "FLOPs"), "checks included"))
    if quantity.known(total.get("seconds")):
        figures.append(("time", quantity.duration(total["seconds"]), quantity.count(len(run.epochs), "epoch")))
    if joules := total.get("joules"):
        figures.append(("energy", quantity.short(joules["value"], "J"), quantity.clean(joules["how"])))
    seconds, checks = total.get("seconds"), total.get("check_seconds")
    if quantity.known(checks) and quantity.known(seconds) and seconds > 0:
        figures.append(("checks", quantity.share(checks / seconds), "of the time"))
    return figures
