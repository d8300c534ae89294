"""Draws docs/weights.svg, what a capped ratio does and what weights make of it.

python docs/weights.py [FILE]
"""

import sys
from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, Normal

import drs_fast as drs

MODEL = Normal(0.0, 1.2)
DATA = MixtureSameFamily(
    Categorical(torch.tensor([0.7, 0.3])),
    Normal(torch.tensor([-0.5, 2.0]), torch.tensor([0.8, 0.5])),
)
LOG_M = 0.4
GREY, BLUE, RED = "#888888", "#1f77b4", "#d62728"


def log_ratio(x: Tensor) -> Tensor:
    found: Tensor = DATA.log_prob(x) - MODEL.log_prob(x)
    return found


def draw(path: str | Path, n: int = 100_000) -> None:
    """The picture as an SVG, the same in every run."""
    gan = drs.GAN(lambda z: 1.2 * z[:, 0], log_ratio, latent_dim=1)
    batch = drs.generate(gan, drs.samplers.DRS(gamma=0.0, eps=0.0, log_m=LOG_M), n)
    x = torch.linspace(-3.5, 4.0, 101)
    edges = torch.linspace(-3.5, 4.0, 31)
    ratio, cap = log_ratio(x).exp(), torch.tensor(LOG_M).exp()

    style = {"svg.hashsalt": "weights", "svg.fonttype": "none", "font.size": 9}
    with mpl.rc_context(style):
        figure = Figure(figsize=(8, 2.9), layout="constrained", facecolor="white")
        left, right = figure.subplots(1, 2, sharex=True)
        left.plot(x, ratio, color="black", label="ratio r = p_data / p_model", gid="ratio")
        left.plot(
            x, ratio.clamp(max=cap), color=RED, label="min(r, M), as often as kept", gid="kept"
        )
        left.fill_between(
            x,
            cap,
            ratio,
            where=ratio >= cap,
            color=BLUE,
            alpha=0.3,
            lw=0,
            label="made up by weights",
        )
        left.axhline(float(cap), color=GREY, lw=0.8, ls=":")
        left.text(-3.4, float(cap) + 0.08, "M = exp(log_m)", color=GREY)
        right.plot(x, DATA.log_prob(x).exp(), color="black", label="data", gid="data")
        right.plot(x, MODEL.log_prob(x).exp(), color=GREY, ls="--", label="generator", gid="model")
        for name, weight, color in (
            ("samples", torch.ones(n, dtype=torch.float64), RED),
            ("weighted samples", batch.weight, BLUE),
        ):
            sums = torch.histogram(batch.x.double(), edges.double(), weight=weight).hist
            height = sums / weight.sum() / (edges[1] - edges[0])
            right.stairs(height, edges, color=color, label=name, gid=name.replace(" ", "-"))
        for axes in (left, right):
            axes.spines[["top", "right"]].set_visible(False)
            axes.set(xlabel="x", ylim=(0.0, None), xlim=(-3.5, 4.0))
            axes.legend(
                frameon=False, fontsize=8, loc="upper left" if axes is left else "upper right"
            )
        left.set_ylim(0.0, 4.6)
        right.set_ylim(0.0, 0.52)
        figure.savefig(path, format="svg", metadata={"Date": None})


if __name__ == "__main__":
    draw(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_suffix(".svg"))
