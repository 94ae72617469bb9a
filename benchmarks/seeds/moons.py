"""Half-moons (SENN): a network that starts as a linear map grows depth and width, as much as it needs.

One hidden layer of two units at the start, whose activation is the identity until training bends it (`Rational`). A
block is a further layer at the identity with such an activation.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from cells import grouped, made_with, row, span, spread
from drawing import STYLE, svg
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.datasets import make_moons
from torch import Tensor, nn

from outgrow import Grower
from outgrow.grow.policy import Timetable
from outgrow.models.rational import Rational
from seeds.growing import At, newest, policy_named

POINTS, NOISE, TEST = 200, 0.3, 10_000
STEPS, LOOK, EPOCH = 500, 20, 50  # of a run, from one look to the next, and what counts as an epoch
ROWS = ("outgrow,depth=true,price=0.003", "senn-paper,depth=true,alpha=0.025")
GRID, RIGHT, UP = 48, (-1.9, 2.9), (-1.5, 2.0)  # points of the map each way, and its ends
COLUMNS = 6  # panels
COLORS = ("#2563eb", "#c2570c")


@dataclass(frozen=True)
class Job:
    """A run.

    Args:
        row: The policy, options behind commas.
        seed: Of points and weights.
    """

    row: str
    seed: int

    def key(self) -> dict:
        """Return what makes two runs the same, as JSON."""
        return {"row": self.row, "seed": self.seed, "setup": [POINTS, NOISE, STEPS, LOOK, EPOCH]}

    def __str__(self) -> str:
        return f"moons, {self.row}, seed {self.seed}"


def jobs(seeds: Sequence[int], rows: Sequence[str] = ROWS) -> list[Job]:
    """All runs, seed by seed."""
    return [Job(one, seed) for seed in seeds for one in rows]


def points(seed: int, count: int = POINTS) -> tuple[Tensor, Tensor]:
    """Points [points, 2] and their classes."""
    x, y = make_moons(count, noise=NOISE, random_state=seed)
    return torch.tensor(x, dtype=torch.float32), torch.tensor(y)


def network() -> nn.Sequential:
    """A fresh network, a linear map."""
    return nn.Sequential(nn.Linear(2, 2), Rational(), nn.Linear(2, 2))


def run(job: Job, at: At) -> dict:
    """Train, look every so often, and keep a map of the classes at each growth of the first seed."""
    torch.manual_seed(job.seed)
    x, y = points(job.seed)
    held_out, test = points(job.seed + 1_000), points(job.seed + 2_000, TEST)
    net = network()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    policy = policy_named(job.row)(Timetable(epochs=STEPS // EPOCH, seed=job.seed))
    grower = Grower(net, optimizer, F.cross_entropy, x[:1], policy=policy, sample=POINTS // 2, seed=job.seed)
    maps = []
    for step in range(1, STEPS + 1):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
        if step == STEPS or step % LOOK:
            continue
        before, halves = seen(net, step), zip(x.chunk(2), y.chunk(2), strict=True)
        now = {"progress": step / STEPS, "epoch": step / EPOCH, "held_out": loss_on(net, *held_out)}
        if grower.check([*halves] * 2, **now).growths:
            maps.append(before)
    maps.append(seen(net, STEPS))
    moments = Counter(event.epoch for event in grower.history for _ in event.growths)
    return {
        **job.key(),
        "layers": linear_layers(net),
        "params": sum(parameter.numel() for parameter in net.parameters()),
        "growths": moments.total(),
        "at_once": max(moments.values(), default=0),
        "accuracy": accuracy(net, *test),
        "train_accuracy": accuracy(net, x, y),
        "maps": maps if job.seed == 0 else [],
        **at.made(),
    }


def linear_layers(net: nn.Module) -> list[int]:
    """Outputs of every linear layer but the last, in their order: the hidden widths."""
    return [layer.out_features for layer in net.modules() if isinstance(layer, nn.Linear)][:-1]


@torch.no_grad()
def loss_on(net: nn.Module, x: Tensor, y: Tensor) -> float:
    """Mean loss of some points [nats]."""
    return float(F.cross_entropy(net(x), y))


@torch.no_grad()
def accuracy(net: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of points whose class is right."""
    return float((net(x).argmax(1) == y).float().mean())


@torch.no_grad()
def seen(net: nn.Module, step: int) -> dict:
    """A map of the network's answers, rows from the bottom, each point as a digit: tenths of the second class."""
    up, right = (torch.linspace(*ends, GRID) for ends in (UP, RIGHT))
    grid = torch.stack(torch.meshgrid(up, right, indexing="ij"), -1).flip(-1).flatten(0, 1)
    tenths = (net(grid).softmax(1)[:, 1] * 10).clamp(max=9).int().tolist()
    return {"step": step, "layers": linear_layers(net), "map": "".join(map(str, tenths))}


def told(line: Mapping) -> str:
    """What a run says when it ends."""
    widths = "-".join(map(str, line["layers"]))
    return f"hidden {widths}, {line['params']} parameters, test {100 * line['accuracy']:.1f} %"


def tables(lines: Sequence[Mapping]) -> str:
    """One row a policy: layers, widths and accuracy over seeds."""
    if not lines:
        return "No runs yet."
    lines = newest(lines)
    head = [
        "policy",
        "n",
        "hidden layers: runs",
        "parameters",
        "additions at one moment, at most",
        "test %",
        "training %",
    ]
    table = [row(head), row(["---", *["---:"] * (len(head) - 1)])]
    for name, runs in grouped(lines, lambda line: line["row"]).items():
        depths = Counter(len(line["layers"]) for line in runs)
        cells = [f"`{name}`", str(len(runs)), ", ".join(f"{depth}: {depths[depth]}" for depth in sorted(depths))]
        cells += [span([line["params"] for line in runs]), str(max(line["at_once"] for line in runs))]
        cells += [spread([100 * line[key] for line in runs], 1) for key in ("accuracy", "train_accuracy")]
        table.append(row(cells))
    return "\n".join([*table, "", made_with(lines)])


def figures(lines: Sequence[Mapping]) -> dict[str, bytes]:
    """The decision boundary before each growth and at the end, of the first seed."""
    drawn = [line for line in newest(lines) if line["maps"]] if lines else []
    return {"seeds_moons.svg": svg(boundaries(drawn)).encode()} if drawn else {}


def boundaries(lines: Sequence[Mapping]) -> Figure:
    """Draw the maps, a row of panels each line; of more than fit, the last ones."""
    columns = min(max(len(line["maps"]) for line in lines), COLUMNS)
    with rc_context(STYLE):
        figure = Figure(figsize=(1.9 * columns, 1.8 * len(lines)), layout="constrained")
        for line, panels in zip(lines, figure.subplots(len(lines), columns, squeeze=False), strict=True):
            shown = line["maps"][-columns:]
            panels[0].set_ylabel(line["row"].partition(",")[0])
            for axes, one in zip(panels, shown, strict=False):
                draw_map(axes, one, *points(line["seed"]))
            for axes in panels[len(shown) :]:
                axes.set_axis_off()
    return figure


def draw_map(axes: Axes, shown: Mapping, x: Tensor, y: Tensor) -> None:
    """Draw a map, and the points on it."""
    tenths = torch.tensor([*map(int, shown["map"])]).view(GRID, GRID)
    axes.imshow(tenths.numpy(), origin="lower", extent=(*RIGHT, *UP), aspect="auto", cmap="coolwarm", alpha=0.55,
                interpolation="none", vmin=0, vmax=9)  # fmt: skip
    for label, color in enumerate(COLORS):
        axes.plot(*x[y == label].T.numpy(), ".", color=color, markersize=2)
    axes.set_title(f"step {shown['step']}: {'-'.join(map(str, shown['layers']))}", fontsize=8)
    axes.set(xticks=[], yticks=[], xlim=RIGHT, ylim=UP)
    axes.grid(visible=False)
