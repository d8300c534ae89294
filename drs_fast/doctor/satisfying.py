"""What the predicates of drs.where leave of a GAN's samples."""

import torch

from drs_fast import ops
from drs_fast.core import BURN_IN_ROW, Rng
from drs_fast.core.arguments import told
from drs_fast.doctor.probes import BLOCK, Finding
from drs_fast.doctor.symptoms import Chart
from drs_fast.gan import GAN, where


def examine(gan: GAN, n: int, seed: int, chart: Chart) -> None:
    """The figures of a run on samples that satisfy the predicates, in place of those on all."""
    logits, names = [], where.names(gan)
    try:
        for start in range(0, n, BLOCK):
            rng, size = Rng(seed, BURN_IN_ROW + start), min(BLOCK, n - start)
            y = ops.labels(gan, rng, size)
            x, logit = gan.logits(ops.latents(gan, rng, size), y)
            logits.append(logit)
            if not start:
                where.check_alone(gan, x, y)
    except Exception as error:  # the user's code may raise anything
        said = str(error) if isinstance(error, ValueError) else told(error)
        seen, _, remedy = said.partition("; ")
        remedy = remedy or "a predicate maps x (n, ...) to bool (n,), row by row"
        chart.findings.append(Finding("predicate", seen, remedy))
        return
    logit = torch.cat(logits)
    kept = logit[~torch.isneginf(logit)]
    chart.figures["rows"] = n
    chart.figures["minus_infinity_share"] = 1.0 - len(kept) / n
    if not bool(torch.isfinite(kept).any()):
        chart.findings.append(
            Finding(
                "unsatisfied",
                f"none of {n:,} samples satisfies {names}",
                "check the predicate; if it is rare, raise n here, and burn_in in a run",
            )
        )
        return
    log_m = ops.largest(kept)
    for name, percent in (("gamma_0", None), ("p80", 80.0), ("p95", 95.0)):
        gamma = torch.zeros_like(log_m)
        if percent is not None:
            gamma = ops.quantile_gamma(kept, percent, log_m=log_m)
        accepted = ops.probability(logit, log_m=log_m, gamma=gamma)
        chart.figures[f"acceptance_{name}"] = float(accepted.mean())
    weight = torch.softmax(kept.double(), dim=0)
    chart.figures["effective_share"] = 1.0 / (float(weight.square().sum()) * n)
    chart.notes.append(
        f"{len(kept):,} of {n:,} samples satisfy {names}; minus_infinity_share, acceptances and "
        "effective_share are those of a run, all else is about G and D without the predicate"
    )
