"""Laws with limits: at the border of a class, and at log_m. Parts of laws.py."""

import math
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor

import drs_fast as drs
from drs_fast.core import Sampler
from drs_fast.samplers import DRS, OBRS

Figure = tuple[str, str, float, float, float]

WIDTHS = torch.tensor([1.2, 4.0, 2.0, 1.5], dtype=torch.float64)  # the model's; the data's are 1
SHARES = torch.tensor([0.7, 0.1, 0.1, 0.1], dtype=torch.float64)  # the data's; the model's: alike
EXACT = {"gamma": 0.0, "eps": 0.0}


def conditional() -> drs.GAN:
    """Four classes of normals, with the exact log p_data(x, y)/p_model(x, y)."""

    def logit(x: Tensor, y: Tensor) -> Tensor:
        width = WIDTHS[y]
        shift = (4 * SHARES[y]).log() + width.log()
        return shift - x[:, 0].double().square() / 2 * (1 - width.pow(-2))

    return drs.GAN(lambda z, y: WIDTHS[y, None].float() * z, logit, 1, labels=4)


def classes(n: int = 10**6) -> Iterator[Figure]:
    """Shares of the classes, and the variance within each."""
    cases: dict[str, tuple[Sampler, dict[str, object], Tensor]] = {
        "DRS, joint": (DRS(**EXACT), {}, SHARES),
        "DRS, within": (DRS(**EXACT, classes="within"), {}, torch.full((4,), 0.25)),
        "DRS, within, 1:2:3:4": (
            DRS(**EXACT, classes="within"),
            {"label_weights": [1, 2, 3, 4]},
            torch.tensor([0.1, 0.2, 0.3, 0.4]),
        ),
        "DRS, only 1": (DRS(**EXACT), {"only": 1}, torch.tensor([0.0, 1.0, 0.0, 0.0])),
    }
    for case, (sampler, options, shares) in cases.items():
        batch = drs.generate(conditional(), sampler, n, **options)
        found = torch.bincount(batch.y, minlength=4).double() / n
        for k, share in enumerate(shares.tolist()):
            # A quota is met to within one sample.
            error = math.sqrt(share * (1 - share) / n) if case == "DRS, joint" else 1 / n
            yield case, f"share of class {k}", share, float(found[k]), error
            if share:
                variance = float(batch.x[batch.y == k].double().square().mean())
                yield case, f"variance, class {k}", 1.0, variance, math.sqrt(2 / (n * share))
    for budget in (0.3, 0.5):
        batch = drs.generate(conditional(), OBRS(budget, burn_in=10**6), n)
        tried = float(batch.stats["proposals"])
        error = math.sqrt(budget * (1 - budget) * (1 / tried + 1e-6))
        yield f"OBRS {budget:g}, joint", "acceptance", budget, n / tried, error


def normal_logits(sd: float) -> drs.GAN:
    """Logits N(-sd^2/2, sd^2) under the generator, so N(sd^2/2, sd^2) under the data."""
    return drs.GAN(lambda z: z, lambda x: sd * x[:, 0].double() - sd * sd / 2, 1)


def capped(n: int = 10**6) -> Iterator[Figure]:
    """The mass E(r - M)+ that log_m clips, by the option formula, and as a run estimates it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for sd in (1.0, 2.0, 3.0):
            batch = drs.generate(normal_logits(sd), DRS(**EXACT, log_m=sd), n)
            far, near = ((mean - sd) / sd for mean in (-sd * sd / 2, sd * sd / 2))
            above = math.erfc(-far / math.sqrt(2)) / 2
            missing = math.erfc(-near / math.sqrt(2)) / 2 - math.exp(sd) * above
            stats = {name: float(value) for name, value in batch.stats.items()}
            error = (stats["clipped_high"] - stats["clipped_low"]) / (2 * 1.96)
            case = f"log_m = sd = {sd:g}"
            yield case, "mass clipped", missing, stats["clipped"], error
            share = above * math.exp(sd) / (1 - missing)
            error = math.sqrt(share * (1 - share) / n)
            yield case, "samples above log_m", share, stats["above_share"], error
