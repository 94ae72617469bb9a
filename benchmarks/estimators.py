"""The table of tabular.py: the estimators beside those of scikit-learn, over splits."""

import statistics
from collections.abc import Mapping, Sequence

from cells import made_with, row, span, spread

NAMES = {
    "growing": "GrowingClassifier, GrowingRegressor",
    "mlp": "MLPClassifier, MLPRegressor",
    "grid": "a grid search of 8 sizes of it",
    "trees": "HistGradientBoosting",
}
LONGEST = 1 / 3  # of the grid's time

Lines = Sequence[Mapping]


def tabular_table(lines: Lines) -> str:
    """A row for each table and model, and a row for each table of what the growing one leads the grid search by."""
    found = latest(lines)
    tables = list(dict.fromkeys(table for table, _ in found))
    heads = ["table", "model", "n", "test score", "parameters", "seconds"]
    out = [row(heads), row(["---", "---", *["---:"] * 4])]
    for table in tables:
        for name, title in NAMES.items():
            if runs := found.get((table, name)):
                out.append(row([table, title, str(len(runs)), *cells(list(runs.values()))]))
    claims = [claim(table, found) for table in tables if (table, "grid") in found and (table, "growing") in found]
    heads = ["table", "n", "score over the grid search's", "seconds, % of its", "within the error", "in a third of it"]
    out += ["", row(heads), row(["---", *["---:"] * 3, "---", "---"]), *(row(each) for each in claims)]
    good = [sum(each[at] == "yes" for each in claims) for at in (4, 5)]
    out += ["", f"Yes: {good[0]} and {good[1]} of {len(claims)} tables."]
    return "\n".join([*out, "", made_with(lines)])


def latest(lines: Lines) -> dict[tuple[str, str], dict[int, Mapping]]:
    """The newest line of each fit, by table and model, then by split."""
    found: dict[tuple[str, str], dict[int, Mapping]] = {}
    for line in lines:
        found.setdefault((line["task"], line["model"]), {})[line["seed"]] = line
    return found


def cells(runs: Lines) -> list[str]:
    """Score, parameters and time over splits."""
    params = [run["params"] for run in runs]
    return [
        spread([run["score"] for run in runs], 4),
        span(params) if all(params) else "",
        spread([run["seconds"] for run in runs], 1),
    ]


def claim(table: str, found: Mapping[tuple[str, str], Mapping[int, Mapping]]) -> list[str]:
    """What the growing model leads the grid search by on the same splits, and whether that is within the error."""
    ours, theirs = found[table, "growing"], found[table, "grid"]
    splits = sorted(ours.keys() & theirs.keys())
    leads = [ours[split]["score"] - theirs[split]["score"] for split in splits]
    error = statistics.stdev(leads) / len(leads) ** 0.5 if len(leads) > 1 else 0.0
    mean = statistics.mean(leads)
    share = statistics.median(ours[split]["seconds"] / theirs[split]["seconds"] for split in splits)
    return [
        table,
        str(len(splits)),
        f"{mean:+.4f} +- {error:.4f}",
        f"{100 * share:.0f}",
        "yes" if mean >= -error else "NO",
        "yes" if share <= LONGEST else "NO",
    ]
