"""Histograms of logits, scores and acceptance probabilities. Needs matplotlib."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from drs_fast.report import bins
from drs_fast.report.style import BLUE, INK, MARK, PALE, figure, save, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOWEST_SCORE = -20.0
CROWDED = 30.0  # percent: where one bar holds more, the others need a logarithmic scale


def scores(path: Path, score: Tensor, probability: Tensor, heading: str = "") -> Path:
    """Histograms of F and of the acceptance probabilities of proposals, both (n,)."""
    drawn, (left, right) = figure(2, panel=(4.6, 3.6), heading=heading)
    shown = score.double().nan_to_num(nan=-torch.inf, neginf=LOWEST_SCORE, posinf=-LOWEST_SCORE)
    ends = torch.quantile(shown, shown.new_tensor([0.001, 0.999]))
    low, high = max(float(ends[0]), LOWEST_SCORE), max(float(ends[1]), 1.0)
    low = min(low, -1.0)
    shown = shown.clamp(low, high)
    count = bins.best(shown[shown > low][:, None], (low, high), most=100)
    below = max(1, round(count * -low / (high - low)))  # an edge at F = 0, where p is 1/2
    falling, rising = np.linspace(low, 0, below + 1), np.linspace(0, high, count - below + 2)
    _bars(left, shown, np.concatenate([falling, rising[1:]]), split=0.0)
    more = f"\nfirst bar: all below {falling[1]:.0f}" if low <= LOWEST_SCORE else ""
    left.set_xlabel(f"score F of a proposal: its logit against log_m, less gamma{more}")
    style(left, f"{_percent(score > 0)} of the proposals score above 0")
    _half(left, 0.0)
    count = bins.best(probability[:, None], (0.0, 1.0), most=50)
    _bars(right, probability, np.linspace(0, 1, 2 * (count // 2) + 1), split=0.5)
    right.set_xlim(0, 1)
    right.set_xlabel("probability that a proposal is accepted")
    mean = float(probability.mean()) if len(probability) else 0.0
    style(right, f"{100 * mean:.3g} % are accepted on average")
    _half(right, 0.5)
    return save(drawn, path)


def logits(path: Path, groups: dict[str, Tensor], heading: str = "") -> Path:
    """Histograms of one or two sets of logits (n,) on one axis; of two, the first is pale."""
    drawn, (axis,) = figure(1, panel=(6.4, 3.6), heading=heading)
    finite = {name: x[torch.isfinite(x)].double() for name, x in groups.items()}
    ends = torch.cat([torch.quantile(x, x.new_tensor([0.01, 0.9999])) for x in finite.values()])
    low, high = float(ends.min()), float(ends.max())
    low, high = low - 0.5 * (low == high), high + 0.5 * (low == high)
    if len(finite) > 1:  # what was kept has half of the axis or more
        kept = float(torch.quantile(finite[list(finite)[-1]], 0.01))
        low = max(low, 2 * kept - high) if kept < high else low
    count = max(bins.best(x[:, None], (low, high)) for x in finite.values())
    edges = np.linspace(low, high, count + 1)
    for (name, logit), colour in zip(finite.items(), (PALE, BLUE)[-len(finite) :], strict=True):
        held, _ = np.histogram(logit.numpy(), edges)
        density = held / ((edges[1] - edges[0]) * len(logit))
        left = float((logit < low).double().mean())
        label = f"{name}; {100 * left:.3g} % are further left" if left > 0.02 else name
        axis.stairs(density, edges, fill=True, color=colour, alpha=0.6, label=label)
        axis.stairs(density, edges, color=colour, linewidth=1.2)
    axis.set_xlabel("logit, in nats: the higher, the more real the discriminator finds a sample")
    axis.set_ylabel("share of the samples, per nat")
    axis.legend(frameon=False, fontsize=9, labelcolor=INK, loc="upper left")
    style(axis, "")
    return save(drawn, path)


def _bars(axis: "Axes", values: Tensor, edges: NDArray[Any], split: float) -> None:
    """Draws shares in percent; bars from `split` on are blue."""
    held, _ = np.histogram(values.double().numpy(), edges)
    shares = 100 * held / max(1, len(values))
    colours = [BLUE if edge >= split - 1e-9 else PALE for edge in edges[:-1]]
    axis.bar(edges[:-1], shares, np.diff(edges), align="edge", color=colours)
    crowded = len(shares) > 1 and CROWDED < shares.max() < 100.0
    axis.set_ylabel("% of the proposals" + (" (logarithmic)" if crowded else ""))
    if crowded:
        axis.set_yscale("log")
        axis.set_ylim(shares[shares > 0].min() / 2, 100.0)
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _half(axis: "Axes", at: float) -> None:
    """Marks where a proposal is accepted with probability 1/2."""
    axis.axvline(at, color=MARK, linewidth=1.2)
    axis.annotate(
        "one in two accepted", (at, 1.0), (4, -9), xycoords=axis.get_xaxis_transform(),
        textcoords="offset points", fontsize=8, color=MARK,
    )  # fmt: skip


def _percent(mask: Tensor) -> str:
    return f"{100 * float(mask.double().mean()):.3g} %"
