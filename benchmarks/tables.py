"""Write what results/*.jsonl say into benchmarks/README.md and docs, and draw their figures.

    python benchmarks/tables.py

A page gets a table between the markers that name it, `<!-- grow -->` and `<!-- /grow -->`.
"""

import json
import re
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

sys.path.append(str(Path(__file__).resolve().parent))  # for who loads this file by its path

import compare
import estimators
import families
import loops
import precision
from cells import grouped, made_with, row, span, test
from drawing import STYLE, beside_sweeps, compared, svg
from seeds import EXPERIMENTS

HERE = Path(__file__).resolve().parent
DOCS = HERE.parent / "docs"
PAGES = [HERE / "README.md", HERE / "NOTES.md", DOCS / "how-a-network-decides-to-grow.md"]
FIGURE = DOCS / "figures" / "gain.svg"
COMPARISONS = {"policies": compared, "family": beside_sweeps}  # by results, drawn beside this file

SOURCES = ("grow", "calibration", "policies", "policies_sizes", "choices", "newborns", "family", "kills", "tabular")
SOURCES += ("callbacks", "precision")
CLOSE = (0.75, 1.33)  # realised / gain that counts as kept
MEASURES: dict[str, Callable[[Mapping], float]] = {
    "gain": lambda growth: growth["gain"],
    "`alone`": lambda growth: growth["alone"],
    "K-FAC score": lambda growth: growth["score"],
    "SENN's bound": lambda growth: growth["bound"],
    "gradient norm": lambda growth: growth["gradient"],
    "parameters": lambda growth: growth["params"],
    "units": lambda growth: growth["units"],
}
OUTCOMES: dict[str, Callable[[Mapping], float]] = {
    "drop over an epoch": lambda growth: growth["loss"]["held_out"] - growth["loss_grown"]["held_out"],
    "drop beyond the twin's": lambda growth: growth["loss_twin"]["held_out"] - growth["loss_grown"]["held_out"],
}
FRAME = ((1e-5, 30.0), (1e-5, 1.0))  # of the figure's panels: promises and drops [nats]


def main() -> None:
    """Replace what stands between the markers, and draw the figures."""
    found = measured()
    for page in PAGES:
        page.write_text(filled(page.read_text(), found))
    FIGURE.parent.mkdir(exist_ok=True)
    FIGURE.write_text(svg(drawn(records("calibration"))))
    for name, draw in COMPARISONS.items():
        if runs := records(name):
            (HERE / "figures" / f"{name}.svg").write_text(svg(draw(runs)))
    for name, experiment in EXPERIMENTS.items():
        for file, drawn_one in experiment.figures(records(f"seeds_{name}")).items():
            (HERE / "figures" / file).write_bytes(drawn_one)


def measured() -> dict[str, str]:
    """All tables, by the names of their markers, as the result files say."""
    experiments = {name: experiment.tables(records(f"seeds_{name}")) for name, experiment in EXPERIMENTS.items()}
    return blocks(*map(records, SOURCES)) | {f"seeds-{name}": table for name, table in experiments.items()}


def records(name: str) -> list[dict]:
    """What was measured; nothing where no run has been made yet."""
    file = HERE / "results" / f"{name}.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def blocks(
    runs: Sequence[Mapping],
    growths: Sequence[Mapping],
    policies: Sequence[Mapping] = (),
    sizes: Sequence[Mapping] = (),
    choices: Sequence[Mapping] = (),
    newborns: Sequence[Mapping] = (),
    family: Sequence[Mapping] = (),
    kills: Sequence[Mapping] = (),
    tabular: Sequence[Mapping] = (),
    callbacks: Sequence[Mapping] = (),
    precisions: Sequence[Mapping] = (),
) -> dict[str, str]:
    """The tables by the names of their markers."""
    return {
        "grow": grow_table(runs),
        "calibration": calibration_table(growths),
        "ranking": "\n\n".join(ranking_table(growths, outcome) for outcome in OUTCOMES),
        "best": best_sentence(growths),
        **compare.blocks(policies, sizes, choices, newborns),
        "family": families.comparison(family),
        "kills": kills_table(kills),
        "callbacks": loops.callbacks_table(callbacks) if callbacks else "",
        "precision": precision.table(precisions) if precisions else "",
        "tabular": estimators.tabular_table(tabular) if tabular else "",
    }


def filled(text: str, found: Mapping[str, str]) -> str:
    """Return a page with what stands between markers replaced."""
    for name, block in found.items():
        whole = f"<!-- {name} -->\n{block}\n<!-- /{name} -->"
        text = re.sub(rf"<!-- {name} -->.*<!-- /{name} -->", lambda _, new=whole: new, text, flags=re.DOTALL)
    return text


def grow_table(results: Sequence[Mapping]) -> str:
    """One row a case: what the largest size reached in the newest run of each seed."""
    rows = [
        "| case | n | saved sizes | largest: parameters | largest: test | time, s | checks, % of it | moved at most "
        "| sizes load exactly | rank correlation of gain and realised drop |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- | ---: |",
    ]
    results = list({(run["case"], run["seed"]): run for run in results}.values())
    for case, runs in grouped(results, lambda run: run["case"]).items():
        largest = [run["sizes"][-1] for run in runs]
        growths = [growth for run in runs for growth in run["growths"]]
        pairs = [(growth["gain"], growth["realised"]) for growth in growths]
        cells = [
            case,
            str(len(runs)),
            span([len(run["sizes"]) for run in runs]),
            span([size["params"] for size in largest]),
            test([size["test"] for size in largest]),
            span([round(run["seconds"]) for run in runs]),
            span([round(100 * run["total"]["check_seconds"] / run["total"]["seconds"], 1) for run in runs]),
            f"{max(growth['moved'] for growth in growths):.1e}",
            "yes" if all(run["loads_exactly"] for run in runs) else "NO",
            f"{rank_correlation(*zip(*pairs, strict=True)):.2f} ({len(growths)})",
        ]
        rows.append(row(cells))
    return "\n".join([*rows, "", made_with(results)])


def calibration_table(growths: Sequence[Mapping]) -> str:
    """One row a case: whether what was promised came, on the examples that judged and on fresh ones."""
    rows = [
        "| case | growths tried | gain > 0 | realised / gain: median (quartiles) | within 0.75 to 1.33 "
        "| gain > its error | realised / gain: median (quartiles) | within 0.75 to 1.33 "
        "| fresh drops / gains | the same, gain > its error | a check, of an epoch |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for case, tried in grouped(growths, lambda one: one["case"]).items():
        positive = [one for one in tried if one["gain"] > 0]
        sure = [one for one in positive if one["gain"] > one["se"]]
        share = statistics.median(one["check_seconds"] / one["epoch_seconds"] for one in tried)
        cells = [case, str(len(tried)), *kept(positive), *kept(sure), fresh(positive), fresh(sure), f"{share:.2f}"]
        rows.append(row(cells))
    checks = {(one["case"], one["seed"], one["event"]) for one in growths}
    said = f'{len(growths)} growths at {len(checks)} checks; "fresh" with standard errors. {made_with(growths)}'
    return "\n".join([*rows, "", said])


def kept(growths: Sequence[Mapping]) -> list[str]:
    """How many, the median of realised / gain with its quartiles, and the share that is close."""
    ratios = [one["realised"] / one["gain"] for one in growths]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    close = sum(CLOSE[0] <= ratio <= CLOSE[1] for ratio in ratios) / len(ratios)
    return [str(len(ratios)), f"{middle:.2f} ({low:.2f} to {high:.2f})", f"{100 * close:.0f} %"]


def fresh(growths: Sequence[Mapping]) -> str:
    """The sum of fresh drops over the sum of gains; its standard error is over checks, whose growths share examples."""
    checks = grouped(growths, lambda one: (one["seed"], one["event"])).values()
    gains = [sum(one["gain"] for one in check) for check in checks]
    drops = [sum(one["fresh"] for one in check) for check in checks]
    ratio = sum(drops) / sum(gains)
    squares = sum((drop - ratio * gain) ** 2 for drop, gain in zip(drops, gains, strict=True))
    return f"{ratio:.2f} +- {(squares * len(gains) / (len(gains) - 1)) ** 0.5 / sum(gains):.2f}"


def ranking_table(growths: Sequence[Mapping], outcome: str) -> str:
    """One row a case: rank correlation of each measure with what a further epoch made of a growth."""
    rows = [
        row([f"{outcome}: case", "n", *MEASURES, "standard error"]),
        row(["---", *["---:"] * (len(MEASURES) + 2)]),
    ]
    for case, tried in grouped(growths, lambda one: one["case"]).items():
        found = correlations(tried, outcome)
        best = max(found, key=found.__getitem__)
        cells = [f"**{value:.2f}**" if name == best else f"{value:.2f}" for name, value in found.items()]
        rows.append(row([case, str(len(tried)), *cells, f"{(len(tried) - 1) ** -0.5:.2f}"]))
    return "\n".join(rows)


def best_sentence(growths: Sequence[Mapping]) -> str:
    """Say in how many cases the gain ranks best."""
    said = []
    for outcome in OUTCOMES:
        found = [correlations(tried, outcome) for tried in grouped(growths, lambda one: one["case"]).values()]
        best = sum(max(one, key=one.__getitem__) == "gain" for one in found)
        means = {name: statistics.mean(one[name] for one in found) for name in MEASURES}
        listed = ", ".join(f"{name} {value:.2f}" for name, value in sorted(means.items(), key=lambda i: -i[1]))
        said.append(f"- {outcome}: the gain ranks best in {best} of {len(found)} cases; means over cases: {listed}.")
    return "\n".join(said)


def kills_table(lines: Sequence[Mapping]) -> str:
    """One row a run of the benchmark, from its summary: what kills left, and into what they fell."""
    found = [line for line in lines if "kills" in line]
    if not found:
        return "No runs yet."
    head = ["kills", "runs", "ends identical", "kills that left an unreadable file", "while a file was written"]
    table = [row([*head, "last record in the journal"]), row([*["---:"] * len(head), "---"])]
    for one in found:
        last = ", ".join(f"{name} {count}" for name, count in sorted(one["last_records"].items(), key=lambda i: -i[1]))
        counts = [one[key] for key in ("kills", "runs", "identical", "unreadable", "while_writing")]
        table.append(row([*map(str, counts), last.replace("None", "none yet")]))
    return "\n".join([*table, "", f"`{found[-1]['command']}`. {made_with(found)}"])


def correlations(growths: Sequence[Mapping], outcome: str) -> dict[str, float]:
    """Rank correlation of each measure with an outcome."""
    came = [OUTCOMES[outcome](one) for one in growths]
    return {name: rank_correlation([measure(one) for one in growths], came) for name, measure in MEASURES.items()}


def drawn(growths: Sequence[Mapping]) -> Figure:
    """Draw promises against drops of the loss, a panel a case."""
    cases = grouped(growths, lambda one: one["case"])
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.4, 0.9 + 2.3 * -(-len(cases) // 3)), layout="constrained")
        panels = list(figure.subplots(-(-len(cases) // 3), 3, sharex=True, sharey=True, squeeze=False).flat)
        for axes, (case, tried) in zip(panels, cases.items(), strict=False):
            draw_case(axes, case, [one for one in tried if one["gain"] > 0])
        for axes in panels[len(cases) :]:
            axes.set_axis_off()
        figure.supxlabel("promised [nats]", fontsize=9)
        figure.supylabel("drop of the loss [nats]", fontsize=9)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure


def draw_case(axes: Axes, case: str, growths: Sequence[Mapping]) -> None:
    """Draw one case; what is outside of the panel sits on its edge."""
    (left, right), (bottom, top) = FRAME
    series = {
        "half the K-FAC score": (lambda one: one["score"] / 2, "realised", {"marker": "x", "color": "#9aa3ad"}),
        "gain, same examples": (lambda one: one["gain"], "realised", {"marker": "o", "color": "#2563eb"}),
        "gain, fresh examples": (lambda one: one["gain"], "fresh", {"marker": "^", "color": "#c2570c"}),
    }
    for label, (promise, drop, style) in series.items():
        x = [min(max(promise(one), left), right) for one in growths]
        y = [min(max(one[drop], bottom), top) for one in growths]
        axes.plot(x, y, linestyle="none", markersize=2.6, markeredgewidth=0.8, label=label, **style)
    axes.plot((left, top), (left, top), color="#20262d", linewidth=0.8, label="promise kept")
    axes.set(title=case, xscale="log", yscale="log", xlim=(left / 1.5, right * 1.5), ylim=(bottom / 1.5, top * 1.5))


def rank_correlation(left: Sequence[float], right: Sequence[float]) -> float:
    """Spearman's rank correlation; ties have the mean of their ranks."""
    return statistics.correlation(*(stats.rankdata(values).tolist() for values in (left, right)))


if __name__ == "__main__":
    main()
