"""The board: the live picture of a run on a terminal, a few lines that are drawn over and over."""

from collections.abc import Iterator, Mapping

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from outgrow.show import quantity
from outgrow.show.lines import realised, sizes, worth
from outgrow.show.record import GOOD_END, Record, kind, metric_name, pareto
from outgrow.show.trajectory import resized

WIDE = 110  # columns from which the sizes stand beside the widths
BLOCK = "block"  # what stands in the place of sizes where a block was inserted
BAR = 24  # columns of the widest axis' bar


class Board:
    """What is known of a run so far, and how it looks.

    Args:
        out: The run folder, as it is shown.
    """

    def __init__(self, out: str) -> None:
        self.out = out
        self.start: Record = {}
        self.epoch: Record = {}
        self.sizes: dict[str, Record] = {}
        self.axes: dict[str, int] = {}
        self.params = 0
        self.step = 0
        self.seconds = 0.0
        self.left: float | None = None
        self.branch: Record = {}  # the size that is being finished, or was last
        self.end: Record = {}  # how the growth ended, if it has
        self._saved = False  # whether the size of that branch is

    @property
    def over(self) -> bool:
        """Whether what went on last came to its end: the branch, or the growth."""
        return self._saved if self.branch else self.end.get("reason") == GOOD_END

    @property
    def steps(self) -> int:
        """Steps of what goes on: of the run, or of the branch."""
        return int(self.branch.get("steps") or self.start.get("steps") or 0)

    def add(self, record: Record) -> None:
        """Take in one record of the journal."""
        match kind(record):
            case "start":
                self.start = record
                self.axes, self.params = dict(record["axes"]), record["params"]
            case "epoch":
                self.epoch = record
                self.axes, self.params = dict(record["axes"]), record["params"]
            case "event":
                self.axes |= {name: size for name, size in resized(record).items() if name in self.axes}
                self.params = record.get("params_after", self.params)
            case "size":
                self.sizes[record["name"]] = record
                self._saved = True
            case "branch":
                self.branch, self._saved = record, False
            case "resume":
                self.end = {}
            case "end":
                self.end, self.left = record, None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        wide = options.max_width >= WIDE
        rows = max(2, min(10, console.size.height - (12 if wide else 18)))
        parts: list[RenderableType] = [self._progress(), self._latest()]
        bars, saved = _bars(self.axes, self.start.get("axes", {}), rows), self._sizes(rows - 1 if wide else 4)
        if wide:
            columns = Table.grid(expand=True, padding=(0, 3))
            columns.add_column(ratio=3)
            columns.add_column(ratio=2)
            columns.add_row(bars, saved)
            parts += ["", columns]
        else:
            parts += ["", bars] + (["", saved] if self.sizes else [])
        yield Panel(Group(*parts), box=box.ROUNDED, border_style="dim", title=self._title(), subtitle=self._subtitle())

    def _title(self) -> Text:
        words = (self.start.get("data", "outgrow"), self.start.get("model", ""))
        return Text(" · ".join(quantity.clean(word) for word in words if word), style="bold")

    def _subtitle(self) -> Text:
        device = self.start.get("device", "")
        threads = f", {quantity.count(self.start['threads'], 'thread')}" if self.start.get("threads") else ""
        seed = f"seed {self.start['seed']}" if "seed" in self.start else ""
        return Text(" · ".join(filter(None, (quantity.clean(self.out), seed, f"{device}{threads}"))), style="dim")

    def _progress(self) -> RenderableType:
        share = 1.0 if self.over else min(1.0, self.step / self.steps) if self.steps else 0.0
        row = Table.grid(expand=True, padding=(0, 2, 0, 0))
        row.add_column(no_wrap=True)
        row.add_column(ratio=1)
        row.add_column(no_wrap=True, justify="right")
        time = ", ".join(filter(None, (quantity.duration(self.seconds), quantity.left(self.left))))
        bar = ProgressBar(
            total=1.0, completed=share, style="bright_black", complete_style="green", finished_style="green"
        )
        row.add_row(Text(self._stage(share), style="bold"), bar, Text(f"{quantity.share(share, 0)}  {time}"))
        return row

    def _stage(self, share: float) -> str:
        if self.branch:
            place = f"{self.branch['number']}/{self.branch['count']}"
            return f"{'finished' if self.over else 'finishing'} {quantity.clean(self.branch['of'])} ({place})"
        epochs = self.start.get("epochs") or 0
        if self.end:
            return f"epoch {self.epoch.get('epoch', 0)}/{epochs}"
        return f"epoch {min(epochs, int(share * epochs) + 1) if share < 1 else epochs}/{epochs}"

    def _latest(self) -> Text:
        limit = self.start.get("max_params")
        params = Text.assemble(
            (quantity.count(self.params), "bold"), (f" of {limit:,}" if limit else "", "dim"), " parameters"
        )
        if not self.epoch:
            return params
        validation = self.epoch["validation"]
        metric = metric_name(self.start, validation)
        return Text("   ").join(
            [
                Text.assemble(
                    "loss ",
                    (quantity.loss(validation.get("loss"), 3), "bold"),
                    (f" (train {quantity.loss(self.epoch['train_loss'], 3)})", "dim"),
                ),
                Text.assemble(
                    f"{quantity.metric_title(metric)} ", (quantity.metric(metric, validation.get(metric)), "bold cyan")
                ),
                params,
            ]
        )

    def _sizes(self, most: int) -> RenderableType:
        if not self.sizes:
            return Text("no size saved yet", style="dim")
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True)
        table.add_column(justify="right", no_wrap=True)
        table.add_column(justify="right", no_wrap=True)
        sizes = list(self.sizes.values())
        metric = metric_name(self.start, sizes[0]["validation"])
        best = pareto(sizes, metric)[-most:] or sizes[-most:]
        table.add_row(Text(f"best of {quantity.count(len(sizes), 'size')}", style="dim"), "", "")
        for size in best:
            value = quantity.metric(metric, size["validation"].get(metric))
            params = quantity.count(size["params"], "parameter")
            table.add_row(
                Text(quantity.shorten(quantity.clean(size["name"]), 24)), Text(params), Text(value, style="cyan")
            )
        return table


def _bars(axes: Mapping[str, int], first: Mapping[str, int], most: int) -> RenderableType:
    """Draw the width of each axis as a bar, what it was born with and what it grew; of many axes the widest."""
    shown = sorted(axes, key=lambda name: -axes[name])[: most if len(axes) <= most else most - 1]
    widest = max(axes.values(), default=1)
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    for name in filter(shown.__contains__, axes):
        table.add_row(*_bar(name, first.get(name, 0), axes[name], widest))
    if len(axes) > len(shown):
        table.add_row(Text(f"and {len(axes) - len(shown)} narrower", style="dim"), "", "")
    return table


def _bar(name: str, before: int, now: int, widest: int) -> Iterator[Text]:
    length, born = max(1, round(BAR * now / widest)), round(BAR * min(before, now) / widest)
    yield Text(quantity.shorten(quantity.clean(name), 22))
    yield Text.assemble(("━" * min(born, length), "blue"), ("━" * (length - min(born, length)), "bright_green"))
    yield Text(f"{before} → {now}" if before and before != now else f"{now}", style="bold" if before != now else "dim")


def growth_row(event: Record, growth: Record, names: int) -> Text:
    """Write one growth as a row that stays above the board, in columns that line up from event to event.

    Args:
        event: The event it belongs to.
        growth: The growth.
        names: Columns for the name of the place.

    Returns:
        The row, 65 columns and the name.
    """
    where = quantity.shorten(quantity.clean(growth["where"]), names)
    widths = sizes(growth, "{} → {}") or BLOCK
    told = f"{worth(growth, sign='±'):<22} {realised(growth)}"
    mark, colour = ("▼", "red") if growth["kind"] == "remove" else ("▲", "green")
    return Text.assemble(
        (f"{mark} {event['event']:<3}", colour),
        (f"{where:<{names}}  {widths:<9}", "bold"),
        f" {told:<39}",
        (f" {growth['params']:>+8,}", colour),
    )
