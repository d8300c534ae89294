"""What burn-in let one expect of a run, and what came."""

import torch
from torch import Tensor

from drs_fast import ops


def calls(state: dict[str, Tensor], calls: int, n: int, squeezed: bool) -> str | None:
    """Calls of G and D per sample."""
    if not n:
        return None
    said = f"{calls / n:.4g}"
    acceptance = float(state.get("acceptance", 0.0))
    if not acceptance:
        return said
    return f"{said} ({1.0 / acceptance:.4g} expected in burn-in{', without a bound' * squeezed})"


def worth(
    state: dict[str, Tensor], raw: Tensor | None, accepted: Tensor | None, eps: float
) -> str | None:
    """What a sample is worth if all are weighted by exp(logit) over their chance, in words.

    None unless all rows have the same log_m and gamma.
    """
    if raw is None or accepted is None or not {"log_m", "gamma"} <= state.keys():
        return None
    if state["log_m"].ndim:
        return None
    (drawn, chance), (taken, _) = (_weights(state, logit, eps) for logit in (raw, accepted))
    if not len(drawn) or not len(taken):
        return None
    expected, came = _share(drawn, chance), _share(taken, torch.ones_like(taken))
    return f"{came:.2%} of the samples ({expected:.2%} expected in burn-in)"


def _weights(state: dict[str, Tensor], logit: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The weights of valid rows that may be accepted, and the chances that they are."""
    chance = ops.probability(logit, log_m=state["log_m"], gamma=state["gamma"], eps=eps)
    rows = torch.isfinite(logit) & (chance > 0.0)
    log = logit[rows].double() - chance[rows].log()
    return (log - log.max() if len(log) else log).exp(), chance[rows]


def _share(weight: Tensor, chance: Tensor) -> float:
    """(sum w)^2 / (n sum w^2) of rows that are there as often as their chance says."""
    total = float((chance * weight).sum())
    return total * (total / float((chance * weight.square()).sum())) / float(chance.sum())
