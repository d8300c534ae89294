"""Draws samples, bounds and balances as PNG files. Needs matplotlib."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from drs_fast.ratio.calibrate import Curve
from drs_fast.report import bins
from drs_fast.report.balance import Balance
from drs_fast.report.style import BLUE, INK, MARK, PALE, SHADES, figure, save, style

GRID = 8
FEW = 3_000  # up to so many samples are drawn as points
LARGEST_TILE = 64


@dataclass(frozen=True)
class Panel:
    """One of several pictures side by side. values: a density (bins, bins), or images."""

    title: str
    values: Tensor
    rows: tuple[str, ...] = ()  # what is written left of each row of images
    points: Tensor | None = None  # (n, 2), drawn in place of the density


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
        return cls(x, y, bins.best(samples, x, y))

    def density(self, samples: Tensor) -> Tensor:
        """(bins, bins) float64, first axis x; samples outside still count in the total."""
        area = (self.x[1] - self.x[0]) * (self.y[1] - self.y[0]) / self.bins**2
        held = bins.counts(samples, self.bins, self.x, self.y).double()
        return held / (max(1, len(samples)) * area)

    def panel(self, title: str, samples: Tensor, of: int = 0) -> Panel:
        """(n, 2) samples as points if they are few, else as a density. of: n of all panels."""
        few = max(len(samples), of) <= FEW
        return Panel(title, self.density(samples), points=samples if few else None)


def densities(path: Path, panels: Sequence[Panel], square: Square, heading: str = "") -> Path:
    """2-D densities side by side, with the same axes and colours."""
    shaded = any(panel.points is None for panel in panels)
    drawn, axes = figure(
        len(panels), panel=(3.7, 4.1), extra=0.8 if shaded else 0.2, heading=heading
    )
    from matplotlib.colors import LinearSegmentedColormap, PowerNorm

    highest = max(float(panel.values.max()) for panel in panels)
    shades = LinearSegmentedColormap.from_list("shades", SHADES)
    image = None
    for axis, panel in zip(axes, panels, strict=True):
        if panel.points is not None:
            x, y = panel.points.T.double().cpu().numpy()
            axis.scatter(x, y, s=5, color=BLUE, alpha=0.5, linewidths=0)
            axis.set(xlim=square.x, ylim=square.y)
        else:
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
        axis.set_xlabel("first number of a sample, x[0]")
        style(axis, panel.title)
    axes[0].set_ylabel("second number, x[1]")
    style(axes[0], panels[0].title)
    if image is not None:
        bar = drawn.colorbar(image, ax=axes, aspect=40, pad=0.015)
        bar.set_label("share of the samples per unit of area", fontsize=9, color=INK)
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=8, color=PALE, labelcolor=INK)
    return save(drawn, path)


def grids(path: Path, panels: Sequence[Panel], heading: str = "", columns: int = GRID) -> Path:
    """Images per panel, (n, H, W), (n, 1, H, W) or (n, 3, H, W), in rows of so many."""
    rows = max(-(-len(panel.values) // columns) for panel in panels)
    named = any(panel.rows for panel in panels)
    width = 3.7 * columns / GRID * (1.0 if len(panels) > 1 else 1.4)
    height = width * rows / columns + 0.5 * any(panel.title for panel in panels)
    drawn, axes = figure(len(panels), panel=(width + 0.6 * named, height), heading=heading)
    everything = torch.cat([panel.values.flatten() for panel in panels])
    low, high = ends(everything)
    for axis, panel in zip(axes, panels, strict=True):
        images = (panel.values.double() - low) / ((high - low) or 1.0)
        sheet = mosaic(images, rows, columns)
        axis.imshow(sheet, cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
        style(axis, panel.title)
        axis.set_frame_on(False)
        axis.tick_params(length=0)
        step = (sheet.shape[0] + gap(images)) / rows
        middles = [step * (row + 0.5) - gap(images) / 2 for row in range(len(panel.rows))]
        axis.set_xticks([])
        axis.set_yticks(middles, panel.rows)
    return save(drawn, path)


def ends(numbers: Tensor) -> tuple[float, float]:
    """What is drawn black and white: 0 and 255 of bytes, else the least and the largest number."""
    if numbers.dtype == torch.uint8:
        return 0.0, 255.0
    finite = numbers.double()[torch.isfinite(numbers)]
    return (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)


def bounds(path: Path, logit: Tensor, bound: Tensor, chance: Tensor, heading: str = "") -> Path:
    """Bounds against logits, (n,) each, of rows that were chosen with these chances."""
    drawn, (axis,) = figure(1, panel=(5.0, 4.4), heading=heading)
    finite = torch.isfinite(logit)
    logit, bound, weight = logit[finite], bound[finite], 1.0 / chance[finite].double()
    below = bound < logit
    for rows, colour in ((~below, BLUE), (below, MARK)):
        axis.scatter(
            logit[rows].numpy(), bound[rows].numpy(), s=3, color=colour, alpha=0.4, linewidths=0
        )
    ends = [float(logit.min()), float(logit.max())]
    axis.plot(ends, ends, color=INK, linewidth=1.0)
    axis.set_xlabel("logit, in nats")
    axis.set_ylabel("least bound, in nats")
    share = float(weight[below].sum() / weight.sum())
    style(axis, f"{share:.3%} of all rows have a bound below their logit (red)")
    return save(drawn, path)


def balance(path: Path, balance: Balance, heading: str = "") -> Path:
    """Each group's share of the samples without and with a bound, and what the bound loses."""
    drawn, axes = figure(2, panel=(5.0, 3.4), heading=heading)
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
        axis.set_xlabel(f"number of the {balance.group}")
        style(axis, "")
    return save(drawn, path)


def reliability(path: Path, curves: dict[str, Curve], heading: str = "") -> Path:
    """Observed shares of real samples against those that critics claim; of two, the first is pale.

    Bars show two standard deviations of the share on either side.
    """
    drawn, (axis,) = figure(1, panel=(4.4, 4.4), heading=heading)
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
    style(axis, "")
    return save(drawn, path)


def mosaic(images: Tensor, rows: int, columns: int, below: int = 0) -> NDArray[Any]:
    """Images (n, H, W) or (n, C, H, W) in [0, 1] on white: (h, w), or (h, w, 3) in colour.

    below: rows of white pixels under each image.
    """
    tiles = small(images[: rows * columns])
    n, channels, height, width = tiles.shape
    between = gap(images)
    cell = tiles.new_ones(rows * columns, channels, height + below + between, width + between)
    cell[:n, :, :height, :width] = tiles
    sheet = cell.view(rows, columns, *cell.shape[1:]).permute(0, 3, 1, 4, 2)
    whole = sheet.reshape(rows * cell.shape[2], columns * cell.shape[3], channels)
    whole = whole[:-between, :-between]
    array: NDArray[Any] = (whole if channels == 3 else whole[..., 0]).numpy()
    return array


def small(images: Tensor) -> Tensor:
    """(n, C, h, w) in [0, 1], of at most 64 x 64 pixels."""
    tiles = images.float().nan_to_num().clamp(0, 1)
    tiles = tiles.unsqueeze(1) if tiles.ndim == 3 else tiles
    step = -(-max(tiles.shape[2:]) // LARGEST_TILE)
    return tiles[:, :, ::step, ::step]


def gap(images: Tensor) -> int:
    """Pixels between two images."""
    return max(1, round(max(small(images[:1]).shape[2:]) / 16))
