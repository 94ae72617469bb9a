"""A family as a plain table."""

from collections.abc import Sequence

from outgrow.train.size import Size


def table(sizes: Sequence[Size], metric: str) -> str:
    """Write sizes as a table that is Markdown, too.

    Args:
        sizes: The sizes, in the order of the rows.
        metric: The metric to show.

    Returns:
        The lines, with numbers in full.
    """
    tested = any(size.test for size in sizes)
    title = metric if metric == "accuracy" else metric.upper()
    tests = [f"test {title}"] if tested else []
    head = ["size", "parameters", "FLOPs", "widths", f"validation {title}", *tests, "seconds"]
    rows = [
        [
            size.name,
            f"{size.params:,}",
            f"{size.flops:,}",
            "-".join(map(str, size.axes.values())),
            *(_measure((part or {}).get(metric), metric) for part in (size.validation, size.test)[: 1 + tested]),
            f"{size.seconds:.1f}",
        ]
        for size in sizes
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    left = {0, head.index("widths")}
    rule = "|".join("-" * (width + 2) for width in widths)
    return "\n".join([_row(head, widths, left), f"|{rule}|", *(_row(row, widths, left) for row in rows)])


def _row(cells: Sequence[str], widths: Sequence[int], left: set[int]) -> str:
    padded = [
        cell.ljust(width) if at in left else cell.rjust(width)
        for at, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return f"| {' | '.join(padded)} |"


def _measure(value: float | None, metric: str) -> str:
    if value is None:
        return "-"
    return f"{100 * value:.2f} %" if metric == "accuracy" else f"{value:.5g}"
