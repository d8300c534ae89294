"""How pictures look: colours, type, and where they are saved. Needs matplotlib."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
INK, PALE, BLUE, MARK = "#2b3640", "#b9c2cb", "#2f6f9f", "#c8553d"
SHADES = ["#ffffff", "#c4dbea", "#5f9dc6", "#1f5f8f", "#08263d"]


def check() -> None:
    """RuntimeError if there is no matplotlib."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise RuntimeError(
            "the pictures need matplotlib, which is not installed; run: pip install matplotlib"
        ) from None


def figure(
    count: int, *, panel: tuple[float, float], extra: float = 0.0, heading: str = ""
) -> tuple["Figure", list["Axes"]]:
    """Panels side by side, each of this width and height in inches."""
    check()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    size = (panel[0] * count + extra, panel[1] + 0.3 * bool(heading))
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
    made = Figure(figsize=size, layout=layout, facecolor="white")
    FigureCanvasAgg(made)
    if heading:
        made.suptitle(heading, fontsize=11, color=INK)
    return made, list(made.subplots(1, count, squeeze=False)[0])


def style(axis: "Axes", title: str) -> None:
    """Gives axes their title, and lines and letters their colours."""
    axis.set_title(title, fontsize=10, color=INK)
    axis.tick_params(which="both", labelsize=8, color=PALE, labelcolor=INK)
    for label in (axis.xaxis.label, axis.yaxis.label):
        label.set(fontsize=9, color=INK)
    for side, spine in axis.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(PALE)


def save(made: "Figure", path: Path) -> Path:
    made.savefig(path, dpi=DPI)
    return path
