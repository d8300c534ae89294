"""Pictures of images: accepted beside rejected, interpolations, and classes. Needs matplotlib."""

from pathlib import Path

import torch
from torch import Tensor

from drs_fast.report.pictures import GRID, Panel, ends, gap, grids, mosaic, small
from drs_fast.report.proposals import Proposals, Strips
from drs_fast.report.style import BLUE, INK, PALE, figure, save, style

SHOWN = 48  # images of each kind
CLASSES = 10  # most classes in one picture, and images of each


def kinds(path: Path, found: Proposals, heading: str = "") -> Path:
    """The first accepted and the first rejected images, sorted by acceptance probability."""
    panels = []
    for name, accepted in (("accepted", True), ("rejected", False)):
        rows = found.sorted(accepted, SHOWN)
        p = found.probability[rows]
        firsts = range(0, len(p), GRID)
        said = tuple(probability(float(p[at : at + GRID].mean())) for at in firsts)
        panels.append(Panel(f"the first {len(rows)} {name}", found.x[rows], said))
    drawn = [panel for panel in panels if len(panel.values)]
    return grids(path, drawn, heading)


def strips(path: Path, found: Strips, heading: str = "") -> Path:
    """Interpolations in rows, each image over the probability that it is accepted."""
    from matplotlib.patches import Rectangle

    count, steps = found.probability.shape
    low, high = ends(found.x)
    images = (found.x.flatten(0, 1).double() - low) / ((high - low) or 1.0)
    height, width = small(images[:1]).shape[2:]
    room = max(2, round(0.42 * height))
    sheet = mosaic(images, count, steps, below=room)
    aspect = sheet.shape[0] / sheet.shape[1]
    drawn, (axis,) = figure(1, panel=(7.4, 7.1 * aspect + 0.6), heading=heading)
    axis.imshow(sheet, cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
    between = gap(images)
    for row in range(count):
        for column in range(steps):
            p = float(found.probability[row, column])
            x = column * (width + between) - 0.5
            y = row * (height + room + between) + height - 0.5
            for share, colour in ((1.0, PALE), (p, BLUE)):
                bar = Rectangle((x, y + 0.12 * room), share * width, 0.18 * room, color=colour)
                bar.set_linewidth(0)
                axis.add_patch(bar)
            axis.text(
                x + width / 2, y + 0.36 * room, probability(p),
                ha="center", va="top", fontsize=8, color=BLUE if p >= 0.5 else INK,
            )  # fmt: skip
    style(axis, "from an accepted sample (left) to a rejected one (right)")
    axis.set_axis_off()
    return save(drawn, path)


def by_class(path: Path, x: Tensor, y: Tensor, labels: int, heading: str = "") -> Path:
    """One row of images for each class, of the first classes that there are."""
    shown = [k for k in range(labels) if bool((y == k).any())][:CLASSES]
    rows = [x[y == k][:CLASSES] for k in shown]
    empty = torch.full_like(x[:1], ends(x)[1])
    filled = [torch.cat([row, empty.expand(CLASSES - len(row), *x.shape[1:])]) for row in rows]
    panel = Panel("", torch.cat(filled), tuple(f"class {k}" for k in shown))
    return grids(path, [panel], heading, columns=CLASSES)


def probability(p: float) -> str:
    """Two digits: 0.93, 0.064, <0.001."""
    return "<0.001" if p < 1e-3 else f"{p:.2g}" if p < 0.995 else "1"
