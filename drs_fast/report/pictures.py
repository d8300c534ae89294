"""Draws samples, scores and logits as PNG files. Needs matplotlib."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from drs_fast.ratio.calibrate import Curve
from drs_fast.report.balance import Balance

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
INK, PALE, BLUE, MARK = "#2b3640", "#b9c2cb", "#2f6f9f", "#c8553d"
SHADES = ["#ffffff", "#c4dbea", "#5f9dc6", "#1f5f8f", "#08263d"]
LOWEST_SCORE = -20.0
GRID = 8
LARGEST_TILE = 64


@dataclass(frozen=True)
class Panel:
    """One of several pictures side by side. values: a density (bins, bins), or images."""

    title: str
    values: Tensor


@dataclass(frozen=True)
class Square:
    """The area in which 2-D samples are drawn: range of each axis, and bins per axis."""

    x: tuple[float, float]
    y: tuple[float, float]
    bins: int = 200

    @classmethod
    def around(cls, samples: Tensor) -> "Square":
        """Holds all but the outermost 0.2 % of (n, 2) samples; axes have one scale if both fit."""
        wide = samples.double()
        low, high = torch.quantile(wide, wide.new_tensor([0.001, 0.999]), dim=0)
        middle, half = (low + high) / 2, 0.55 * (high - low)
        if float(half.max()) < 4 * float(half.min()):
            half = half.max().expand(2)
        half = half.clamp(min=1e-6)
        x, y = zip((middle - half).tolist(), (middle + half).tolist(), strict=True)
        return cls(x, y, bins=min(200, max(20, round(len(samples) ** 0.5 / 4))))

    def density(self, samples: Tensor) -> Tensor:
        """(bins, bins) float64, first axis x; samples outside still count in the total."""
        first, second = samples.double().cpu().numpy().T
        counts, _, _ = np.histogram2d(first, second, bins=self.bins, range=(self.x, self.y))
        area = (self.x[1] - self.x[0]) * (self.y[1] - self.y[0]) / self.bins**2
        return torch.from_numpy(counts) / (max(1, len(samples)) * area)


def check() -> None:
    """RuntimeError if there is no matplotlib."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise RuntimeError(
            "the pictures need matplotlib, which is not installed; run: pip install matplotlib"
        ) from None


def densities(path: Path, panels: Sequence[Panel], square: Square, heading: str = "") -> Path:
    """2-D densities side by side, with the same axes and colours."""
    figure, axes = _figure(len(panels), panel=(3.7, 4.1), extra=0.8, heading=heading)
    from matplotlib.colors import LinearSegmentedColormap, PowerNorm

    highest = max(float(panel.values.max()) for panel in panels)
    shades = LinearSegmentedColormap.from_list("shades", SHADES)
    for axis, panel in zip(axes, panels, strict=True):
        image = axis.imshow(
            panel.values.T.numpy(),
            origin="lower",
            extent=(*square.x, *square.y),
            aspect="auto",
            cmap=shades,
            norm=PowerNorm(0.5, vmin=0.0, vmax=highest or 1.0),
            interpolation="nearest",
        )
        axis.set_box_aspect(1)
        axis.set_xlabel("x[0]", fontsize=9)
        _style(axis, panel.title)
    axes[0].set_ylabel("x[1]", fontsize=9)
    bar = figure.colorbar(image, ax=axes, aspect=40, pad=0.015)
    bar.set_label("density", fontsize=9, color=INK)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, color=PALE, labelcolor=INK)
    return _save(figure, path)


def grids(path: Path, panels: Sequence[Panel], heading: str = "") -> Path:
    """Up to 64 images per panel, (n, H, W), (n, 1, H, W) or (n, 3, H, W), in rows of eight."""
    figure, axes = _figure(len(panels), panel=(3.7, 4.0), heading=heading)
    everything = torch.cat([panel.values.flatten() for panel in panels])
    low, high = _ends(everything)
    for axis, panel in zip(axes, panels, strict=True):
        images = (panel.values.double() - low) / ((high - low) or 1.0)
        axis.imshow(_mosaic(images), cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
        _style(axis, panel.title)
        axis.set_axis_off()
    return _save(figure, path)


def _ends(numbers: Tensor) -> tuple[float, float]:
    """What is drawn black and white: 0 and 255 of bytes, else the least and the largest number."""
    if numbers.dtype == torch.uint8:
        return 0.0, 255.0
    finite = numbers.double()[torch.isfinite(numbers)]
    return (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)


def scores(path: Path, score: Tensor, probability: Tensor, heading: str = "") -> Path:
    """Histograms of F and of the acceptance probabilities of proposals, both (n,)."""
    figure, (left, right) = _figure(2, panel=(4.3, 3.4), heading=heading)
    shown = score.double().nan_to_num(nan=-torch.inf, neginf=LOWEST_SCORE, posinf=-LOWEST_SCORE)
    ends = torch.quantile(shown, shown.new_tensor([0.001, 0.999]))
    low, high = max(float(ends[0]), LOWEST_SCORE), max(float(ends[1]), 1.0)
    low = min(low, -1.0)
    below = max(1, round(60 * -low / (high - low)))  # an edge at F = 0, where the colour changes
    falling, rising = np.linspace(low, 0, below + 1), np.linspace(0, high, max(1, 60 - below) + 1)
    _bars(left, shown.clamp(low, high), np.concatenate([falling, rising[1:]]), split=0.0)
    left.axvline(0.0, color=MARK, linewidth=1.2)
    left.annotate(
        "p = 1/2", (0.0, 1.0), (4, -10), xycoords=left.get_xaxis_transform(),
        textcoords="offset points", fontsize=8, color=MARK,
    )  # fmt: skip
    left.set_xlabel("F" if low > LOWEST_SCORE else f"F  (first bar: all below {falling[1]:.0f})")
    left.set_ylabel("share of proposals, %")
    _style(left, f"score F: {_share(score > 0)} above 0")
    _bars(right, probability, np.linspace(0, 1, 41), split=0.5)
    right.axvline(0.5, color=MARK, linewidth=1.2)
    right.set_xlim(0, 1)
    right.set_xlabel("acceptance probability = sigmoid(F)")
    mean = float(probability.mean()) if len(probability) else 0.0
    _style(right, f"acceptance probability: mean {mean:.3f}")
    return _save(figure, path)


def logits(path: Path, groups: dict[str, Tensor], heading: str = "") -> Path:
    """Histograms of one or two sets of logits (n,) on one axis; of two, the first is pale."""
    figure, (axis,) = _figure(1, panel=(6.4, 3.6), heading=heading)
    finite = {name: x[torch.isfinite(x)].double() for name, x in groups.items()}
    ends = torch.cat([torch.quantile(x, x.new_tensor([0.01, 0.9999])) for x in finite.values()])
    low, high = float(ends.min()), float(ends.max())
    edges = np.linspace(low - 0.5 * (low == high), high + 0.5 * (low == high), 101)
    for (name, logit), colour in zip(finite.items(), (PALE, BLUE)[-len(finite) :], strict=True):
        width = float(edges[1] - edges[0]) * len(logit)
        counts, _ = np.histogram(logit.numpy(), edges)
        axis.stairs(counts / width, edges, fill=True, color=colour, alpha=0.7, label=name)
        axis.stairs(counts / width, edges, color=colour, linewidth=1.2)
    axis.set_xlabel("logit, nats")
    axis.set_ylabel("density")
    axis.legend(frameon=False, fontsize=9, labelcolor=INK, loc="upper left")
    _style(axis, "")
    return _save(figure, path)


def bounds(path: Path, logit: Tensor, bound: Tensor, chance: Tensor, heading: str = "") -> Path:
    """Bounds against logits, (n,) each, of rows that were chosen with these chances."""
    figure, (axis,) = _figure(1, panel=(5.0, 4.4), heading=heading)
    finite = torch.isfinite(logit)
    logit, bound, weight = logit[finite], bound[finite], 1.0 / chance[finite].double()
    below = bound < logit
    for rows, colour in ((~below, BLUE), (below, MARK)):
        axis.scatter(
            logit[rows].numpy(), bound[rows].numpy(), s=3, color=colour, alpha=0.4, linewidths=0
        )
    ends = [float(logit.min()), float(logit.max())]
    axis.plot(ends, ends, color=INK, linewidth=1.0)
    axis.set_xlabel("logit")
    axis.set_ylabel("bound")
    share = float(weight[below].sum() / weight.sum())
    _style(axis, f"{share:.3%} of all rows have a bound below their logit (red)")
    return _save(figure, path)


def balance(path: Path, balance: Balance, heading: str = "") -> Path:
    """Each group's share of the samples without and with a bound, and what the bound loses."""
    figure, axes = _figure(2, panel=(5.0, 3.4), heading=heading)
    place = np.arange(len(balance.share))
    for shares, name, colour, shift in (
        (balance.share, "without a bound", PALE, -0.2),
        (balance.kept(), "with the bound", BLUE, 0.2),
    ):
        axes[0].bar(place + shift, 100 * shares.numpy(), 0.4, color=colour, label=name)
    axes[0].set_ylabel("% of the samples")
    axes[0].legend(frameon=False, fontsize=9, labelcolor=INK)
    axes[1].bar(place, 100 * balance.lost.numpy(), 0.8, color=MARK)
    axes[1].set_ylabel(f"% lost of each {balance.group}")
    for axis in axes:
        axis.set_xlabel(balance.group)
        _style(axis, "")
    return _save(figure, path)


def reliability(path: Path, curves: dict[str, Curve], heading: str = "") -> Path:
    """Observed shares of real samples against those that critics claim; of two, the first is pale.

    Bars show two standard deviations of the share on either side.
    """
    figure, (axis,) = _figure(1, panel=(4.4, 4.4), heading=heading)
    axis.plot([0, 1], [0, 1], color=MARK, linewidth=1.2)
    for (name, curve), colour in zip(curves.items(), (PALE, BLUE)[-len(curves) :], strict=True):
        claimed, observed, size = (values.numpy() for values in curve)
        guess = (observed * size + 1) / (size + 2)  # so that no bar vanishes at 0 or 1
        bars = 2 * np.sqrt(guess * (1 - guess) / size)
        axis.errorbar(
            claimed,
            observed,
            bars,
            color=colour,
            marker="o",
            markersize=4,
            linewidth=1.2,
            label=name,
        )
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 1)
    axis.set_xlabel("probability of real that the logit claims")
    axis.set_ylabel("share of real samples")
    axis.legend(frameon=False, fontsize=9, labelcolor=INK, loc="upper left")
    _style(axis, "")
    return _save(figure, path)


def _figure(
    count: int, *, panel: tuple[float, float], extra: float = 0.0, heading: str = ""
) -> tuple["Figure", list["Axes"]]:
    check()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    size = (panel[0] * count + extra, panel[1] + 0.3 * bool(heading))
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
    figure = Figure(figsize=size, layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    if heading:
        figure.suptitle(heading, fontsize=11, color=INK)
    return figure, list(figure.subplots(1, count, squeeze=False)[0])


def _style(axis: "Axes", title: str) -> None:
    axis.set_title(title, fontsize=10, color=INK)
    axis.tick_params(labelsize=8, color=PALE, labelcolor=INK)
    for label in (axis.xaxis.label, axis.yaxis.label):
        label.set(fontsize=9, color=INK)
    for side, spine in axis.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(PALE)


def _bars(axis: "Axes", values: Tensor, edges: NDArray[Any], split: float) -> None:
    """Draws shares in percent; bars from `split` on are blue."""
    counts, _ = np.histogram(values.double().numpy(), edges)
    shares = 100 * counts / max(1, len(values))
    colours = [BLUE if edge >= split - 1e-9 else PALE for edge in edges[:-1]]
    axis.bar(edges[:-1], shares, np.diff(edges), align="edge", color=colours)


def _mosaic(images: Tensor) -> NDArray[Any]:
    """Images side by side on white: (h, w), or (h, w, 3) in colour."""
    tiles = images[: GRID * GRID].float().nan_to_num().clamp(0, 1)
    tiles = tiles.unsqueeze(1) if tiles.ndim == 3 else tiles
    step = -(-max(tiles.shape[2:]) // LARGEST_TILE)
    tiles = tiles[:, :, ::step, ::step]
    n, channels, height, width = tiles.shape
    gap = max(1, round(max(height, width) / 16))
    cell = tiles.new_ones(GRID * GRID, channels, height + gap, width + gap)
    cell[:n, :, :height, :width] = tiles
    sheet = cell.view(GRID, GRID, channels, height + gap, width + gap).permute(0, 3, 1, 4, 2)
    whole = sheet.reshape(GRID * (height + gap), GRID * (width + gap), channels)[:-gap, :-gap]
    array: NDArray[Any] = (whole if channels == 3 else whole[..., 0]).numpy()
    return array


def _share(mask: Tensor) -> str:
    return f"{float(mask.double().mean()):.1%}"


def _save(figure: "Figure", path: Path) -> Path:
    figure.savefig(path, dpi=DPI)
    return path
