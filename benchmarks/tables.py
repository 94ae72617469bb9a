"""Write the tables of benchmarks/README.md from results/*.jsonl: python benchmarks/tables.py."""

import json
import re
import statistics
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Replace what stands between the markers."""
    readme = HERE / "README.md"
    lines = (HERE / "results" / "grow.jsonl").read_text().splitlines()
    text = readme.read_text()
    block = "\n".join(["<!-- grow -->", grow_table([json.loads(line) for line in lines]), "<!-- /grow -->"])
    readme.write_text(re.sub(r"<!-- grow -->.*<!-- /grow -->", lambda _: block, text, flags=re.DOTALL))


def grow_table(results: list[dict]) -> str:
    """One row a case: what the largest size reached, over seeds."""
    rows = [
        "| case | n | saved sizes | largest: parameters | largest: test | time, s | checks, % of it | moved at most "
        "| sizes load exactly | rank correlation of gain and realised drop |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- | ---: |",
    ]
    for case in dict.fromkeys(result["case"] for result in results):
        runs = [result for result in results if result["case"] == case]
        largest = [run["sizes"][-1] for run in runs]
        growths = [growth for run in runs for growth in run["growths"]]
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
            f"{rank_correlation([(g['gain'], g['realised']) for g in growths]):.2f} ({len(growths)})",
        ]
        rows.append("| " + " | ".join(cells) + " |")
    machines = sorted({result["hardware"] for result in results})
    versions = sorted({f"torch {result['versions']['torch']}" for result in results})
    commits = sorted({result["commit"] for result in results})
    return "\n".join(
        [*rows, "", f"Machine: {'; '.join(machines)}; {', '.join(versions)}; commits {', '.join(commits)}."]
    )


def span(values: list[float]) -> str:
    """Median (the lower of two), with the range where there is one."""
    middle, low, high = statistics.median_low(values), min(values), max(values)
    return f"{middle:,}" if low == high else f"{middle:,} ({low:,} to {high:,})"


def test(results: list[dict]) -> str:
    """Mean and sample standard deviation of the test metrics."""
    if "accuracy" in results[0]:
        return f"{spread([100 * result['accuracy'] for result in results], 2)} %"
    rmse, r2 = (spread([result[key] for result in results], digits) for key, digits in (("rmse", 0), ("r2", 3)))
    return f"RMSE {rmse}, R2 {r2}"


def spread(values: list[float], digits: int) -> str:
    """Mean and sample standard deviation."""
    mean = f"{statistics.mean(values):,.{digits}f}"
    return mean if len(values) == 1 else f"{mean} +- {statistics.stdev(values):,.{digits}f}"


def rank_correlation(pairs: list[tuple[float, float]]) -> float:
    """Spearman's rank correlation; ties by order."""

    def ranks(values: list[float]) -> list[int]:
        order = sorted(range(len(values)), key=values.__getitem__)
        return [order.index(i) for i in range(len(values))]

    left, right = zip(*pairs, strict=True)
    return statistics.correlation(ranks(list(left)), ranks(list(right)))


if __name__ == "__main__":
    main()
