"""1-D regression (SENN): neurons come in where and when the natural expansion score says so.

One hidden unit at the start, 50 points. A unit answers at one place and in a neighbourhood (`Bump`), so that all that
could come in lies in a plane, of places and scales, over which the score is drawn before and after each addition.
"""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
import torch
import torch.nn.functional as F
from cells import made_with, row, span, spread
from drawing import STYLE, svg
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn

from outgrow import Grower
from outgrow.grow.policies.senn import Senn
from outgrow.grow.score import total
from seeds.growing import At, newest
from seeds.networks import Bump

POINTS, REACH, NOISE = 50, 4.0, 0.03
FINE = 400  # points of a curve
FAR = 6.0  # places go further than the points
LOOKS, STEPS = 24, 100  # steps from one look to the next
PER_LOOK = 2  # frames
TAU, ALPHA = 1.0, 2.5e-3  # as published
INIT, RATE = "mixed", 2e-2  # how units are proposed; of Adam
PLACES, SCALES = torch.linspace(-FAR, FAR, 121).double(), torch.logspace(-1, 1, 61).double()
CURVATURE, RIDGE = torch.tensor([[2.0]]).double(), 1e-6  # of the squared error; share of a new feature's moment
SHADES = (-4.0, -0.4)  # of scores: powers of ten, in shares of lambda
SHADING = mpl.colormaps["Blues"].resampled(12)
MOMENTS = {
    "": "what a new unit would add to the score",
    "before": "inside the line both thresholds are passed",
    "after": "the orange one came in",
}
SHORT, LONG, LAST, COLORS = 120, 700, 2_500, 64  # of frames [ms]; of their palette
AFTER = 6  # frames behind the last addition
INK, BLUE, ORANGE, GREY = "#20262d", "#2563eb", "#c2570c", "#9aa3ad"


@dataclass(frozen=True)
class Job:
    """A run."""

    seed: int

    def key(self) -> dict:
        """Return what makes two runs the same, as JSON."""
        return {"seed": self.seed, "setup": [POINTS, NOISE, LOOKS, STEPS, PER_LOOK, TAU, ALPHA, INIT, RATE]}

    def __str__(self) -> str:
        return f"regression, seed {self.seed}"


def jobs(seeds: Sequence[int]) -> list[Job]:
    """All runs."""
    return [*map(Job, seeds)]


def target(x: Tensor) -> Tensor:
    """What is to be learned: waves that fade, and a peak."""
    return (1.5 * x).sin() * (-x.abs() / 4).exp() + 1.2 * (-(((x - 1.5) / 0.35) ** 2)).exp()


def points(seed: int) -> tuple[Tensor, Tensor]:
    """The examples [points, 1]."""
    x = torch.linspace(-REACH, REACH, POINTS)[:, None]
    return x, target(x) + NOISE * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))


def network(units: int = 1) -> nn.Sequential:
    """A layer of bumps; the only one of a fresh network is in the middle."""
    net = nn.Sequential(nn.Linear(1, units), Bump(), nn.Linear(units, 1))
    nn.init.ones_(net[0].weight)
    nn.init.zeros_(net[0].bias)
    return net


def run(job: Job, at: At) -> dict:
    """Train by least squares and look every so often; return the line, the weights at each frame in it."""
    torch.manual_seed(job.seed)
    x, y = points(job.seed)
    net = network()
    optimizer = torch.optim.Adam(net.parameters(), lr=RATE)
    policy = Senn(tau=TAU, alpha=ALPHA, init=INIT, depth=False)
    grower = Grower(
        net, optimizer, F.mse_loss, x[:1], policy=policy, sample=2 * POINTS, seed=job.seed,
        before_growth=lambda verdict: frames.append(frame(net, step, "before")),
    )  # fmt: skip
    frames: list[dict] = [frame(net, 0, "")]
    for step in range(1, LOOKS * STEPS + 1):
        optimizer.zero_grad()
        F.mse_loss(net(x), y).backward()
        optimizer.step()
        if step % (STEPS // PER_LOOK) == 0:
            frames.append(frame(net, step, ""))
        if step % STEPS == 0 and grower.check([(x, y)] * 4).growths:
            frames.append(frame(net, step, "after"))
    fine = torch.linspace(-REACH, REACH, FINE)[:, None]
    errors = {"rmse": F.mse_loss(net(x), y), "rmse_true": F.mse_loss(net(fine), target(fine))}
    return {
        **job.key(),
        "units": net[0].out_features,
        **{name: math.sqrt(float(error.detach())) for name, error in errors.items()},
        "additions": [
            {"step": round(event.epoch + 1) * STEPS, "units": growth.size_after}
            for event in grower.history
            for growth in event.growths
        ],
        "bound": policy.most,
        "frames": frames,
        **at.made(),
    }


def told(line: Mapping) -> str:
    """What a run says when it ends."""
    return f"{line['units']} units, RMSE {line['rmse']:.3f}"


def frame(net: nn.Sequential, step: int, moment: str) -> dict:
    """The weights at a moment, rounded."""
    weights = [net[0].weight[:, 0], net[0].bias, net[2].weight[0], net[2].bias]
    return {"step": step, "moment": moment, "weights": [[round(v, 5) for v in one.tolist()] for one in weights]}


def units_of(seen: Mapping) -> int:
    """How many units there are at a moment."""
    return len(seen["weights"][0])


def of_frame(seen: Mapping) -> nn.Sequential:
    """The network at a moment."""
    weight, bias, out, shift = (torch.tensor(one) for one in seen["weights"])
    net = network(len(weight))
    with torch.no_grad():
        for parameter, value in zip(net.parameters(), (weight[:, None], bias, out[None], shift), strict=True):
            parameter.copy_(value)
    return net


@torch.no_grad()
def landscape(net: nn.Sequential, x: Tensor, y: Tensor) -> tuple[Tensor, float, float]:
    """What a new unit at each place and of each scale would add to the natural expansion score.

    `outgrow.grow.score.increase` for many single columns at once: one output, of curvature 2.

    Returns:
        The scores [scales, places], that of the present weights of the output layer, and SENN's lambda, the mean
        squared gradient at the output [nats].
    """
    c = torch.cat([net[1](net[0](x)), torch.ones_like(x)], 1).double()
    slope = 2 * (net(x) - y).double() / len(x)
    A, G = c.mT @ c / len(x), slope.mT @ c
    p = Bump()((x.double() - PLACES) / SCALES[:, None, None])  # [scales, examples, places]
    of_c = torch.linalg.solve(A, c.mT @ p / len(x))  # regression of the new features on the present
    C = slope.mT @ p - G @ of_c
    moment = p.square().mean(1)
    perp = moment - (of_c * (A @ of_c)).sum(1)
    return (
        (C[:, 0].square() / 2 / (perp + RIDGE * moment)),
        total(A, CURVATURE, G),
        float(slope.square().sum() * len(x)),
    )


def tables(lines: Sequence[Mapping]) -> str:
    """One row: how many units, and how good the fit is, over seeds."""
    if not lines:
        return "No runs yet."
    lines = newest(lines)
    head = [
        "n",
        "units at the end",
        "additions, at one moment at most (SENN's bound)",
        "RMSE on the points",
        "to the true function",
    ]
    most = max(additions_at_once(line) for line in lines)
    cells = [str(len(lines)), span([line["units"] for line in lines]), f"{most} ({lines[0]['bound']})"]
    cells += [spread([line[key] for line in lines], 3) for key in ("rmse", "rmse_true")]
    return "\n".join([row(head), row(["---:"] * len(head)), row(cells), "", made_with(lines)])


def additions_at_once(line: Mapping) -> int:
    """How many units came in at the busiest moment."""
    steps = [one["step"] for one in line["additions"]]
    return max(map(steps.count, steps), default=0)


def figures(lines: Sequence[Mapping]) -> dict[str, bytes]:
    """The plane before and after each addition, and the whole run as a film; of the first seed."""
    if not lines:
        return {}
    first = newest(lines)[0]
    return {"seeds_regression.svg": svg(planes(first)).encode(), "seeds_regression.gif": film(first)}


def planes(line: Mapping) -> Figure:
    """Fit and plane before and after each addition, one column each."""
    x, y = points(line["seed"])
    kept = pairs(line)
    with rc_context(STYLE):
        figure = Figure(figsize=(2.4 * len(kept) + 0.6, 5.4), layout="constrained")
        panels = figure.subplots(3, len(kept), squeeze=False, sharex=True, sharey="row")
        for column, (seen, after) in zip(panels.T, kept, strict=True):
            draw_fit(column[0], of_frame(seen), x, y)
            draw_plane(column[1], of_frame(seen), x, y)
            draw_plane(column[2], of_frame(after), x, y, newest=units_of(after) - units_of(seen))
            column[0].set_title(f"step {seen['step']:,}")
            column[2].set_xlabel("place")
        for axes, label in zip(panels[:, 0], ("fit before", "before: scale", "after: scale"), strict=True):
            axes.set_ylabel(label)
    return figure


def pairs(line: Mapping) -> list[tuple[Mapping, Mapping]]:
    """The frames before and after each moment at which something came in."""
    found = line["frames"]
    befores = [seen for seen in found if seen["moment"] == "before"]
    afters = {seen["step"]: seen for seen in found if seen["moment"] == "after"}
    first = {seen["step"]: seen for seen in reversed(befores)}
    return [(first[step], afters[step]) for step in sorted(first)]


def film(line: Mapping) -> bytes:
    """The run as an animated GIF, frame by frame."""
    x, y = points(line["seed"])
    shown = line["frames"][: 1 + AFTER + max(i for i, seen in enumerate(line["frames"]) if seen["moment"])]
    with rc_context(STYLE):
        figure = Figure(figsize=(7.2, 2.7), dpi=90)
        canvas, panels = FigureCanvasAgg(figure), figure.subplots(1, 2)
        figure.subplots_adjust(left=0.05, right=0.985, top=0.9, bottom=0.17, wspace=0.16)
        before = [shown[0], *shown]
        images = [image_of(canvas, panels, *pair, x, y) for pair in zip(before, shown, strict=False)]
    durations = [LONG if seen["moment"] else SHORT for seen in shown]
    file = io.BytesIO()
    options = {"append_images": images[1:], "duration": [*durations[:-1], LAST], "loop": 0}
    images[0].save(file, format="GIF", save_all=True, optimize=True, **options)
    return file.getvalue()


def image_of(
    canvas: FigureCanvasAgg, panels: Sequence[Axes], before: Mapping, seen: Mapping, x: Tensor, y: Tensor
) -> Image.Image:
    """Draw a frame; what came in since the one before has another colour."""
    for axes in panels:
        axes.clear()
    left, right = panels
    net = of_frame(seen)
    draw_fit(left, net, x, y)
    draw_plane(right, net, x, y, newest=units_of(seen) - units_of(before))
    left.set_title(f"step {seen['step']:,}, units: {net[0].out_features}", loc="left")
    right.set_title(MOMENTS[seen["moment"]], loc="left")
    right.set(xlabel="place of a new unit")
    right.set_ylabel("its scale", labelpad=-6)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(COLORS, dither=Image.Dither.NONE)


def draw_fit(axes: Axes, net: nn.Sequential, x: Tensor, y: Tensor) -> None:
    """Draw points, what is to be learned, the fit, and where the neurons are."""
    fine = torch.linspace(-REACH, REACH, FINE)[:, None]
    with torch.no_grad():
        curves = (fine, target(fine)), (x, y), (fine, net(fine))
    looks = {"color": GREY, "linewidth": 1}, {"marker": "o", "color": INK, "markersize": 1.8, "linestyle": "none"}
    for curve, look in zip(curves, (*looks, {"color": BLUE, "linewidth": 1.4}), strict=True):
        axes.plot(*(one[:, 0].numpy() for one in curve), **look)
    places, _ = where(net)
    axes.plot(places, [-1.7] * len(places), "^", color=ORANGE, markersize=4)
    axes.set(ylim=(-1.8, 2.0), xlim=(-REACH, REACH))


def draw_plane(axes: Axes, net: nn.Sequential, x: Tensor, y: Tensor, newest: int = 0) -> None:
    """Draw what a new unit would add, as a share of lambda; a line around where both thresholds are passed.

    Units outside of the plane stand at its edge; the newest ones have another colour.
    """
    scores, present, ceiling = landscape(net, x, y)
    passes = scores / max(ALPHA * ceiling, TAU * present)
    bottom, top = math.log10(SCALES[0]), math.log10(SCALES[-1])
    axes.imshow((scores / ceiling).log10().numpy(), origin="lower", extent=(-FAR, FAR, bottom, top), aspect="auto",
                interpolation="none", cmap=SHADING, vmin=SHADES[0], vmax=SHADES[1])  # fmt: skip
    if passes.max() > 1:
        axes.contour(
            *(one.numpy() for one in (PLACES, SCALES.log10(), passes)), levels=[1], colors=ORANGE, linewidths=1
        )
    places, scales = where(net)
    old = len(places) - newest
    axes.plot(places[:old], scales[:old], "o", color=INK, markersize=3)
    axes.plot(places[old:], scales[old:], "o", color=ORANGE, markersize=5)
    axes.set(xlim=(-FAR, FAR), ylim=(bottom, top), yticks=[-1, 0, 1], yticklabels=["0.1", "1", "10"])
    axes.grid(visible=False)


def where(net: nn.Sequential) -> tuple[list[float], list[float]]:
    """Places of the neurons, and the logarithms of their scales, within the plane or at its edge."""
    weight, bias = net[0].weight[:, 0].detach(), net[0].bias.detach()
    places, scales = (-bias / weight).clamp(-FAR, FAR), -weight.abs().log10().clamp(-1, 1)
    return places.tolist(), scales.tolist()
