"""The largest logit, and gamma as a percentile."""

import torch
from torch import Tensor
from torch.compiler import is_compiling

from drs_fast import checks
from drs_fast.arguments import describe, number
from drs_fast.backends import reference
from drs_fast.ops.dispatch import call, operator, tensor


def largest(logit: Tensor) -> Tensor:
    """The largest logit that is neither NaN nor +inf, 0-d float64; -inf if there is none."""
    if is_compiling():
        return operator("largest", logit)
    logit = checks.logit(logit)
    return call("largest", logit.device)(logit)


def quantile_gamma(logit: Tensor, q: float, *, log_m: float | Tensor, eps: float = 1e-6) -> Tensor:
    """The q-th percentile (0 <= q <= 100) of F over the valid logits, 0-d float64.

    F rises with the logit, so this is F at the max(1, ceil(q n / 100))-th smallest logit.
    Within [-600, 600]; NaN if no logit is valid.
    """
    if is_compiling():
        return operator("quantile_gamma", logit, q, tensor(log_m, logit), eps)
    logit = checks.logit(logit)
    percent = number("q, in percent,", q, 0.0, 100.0)
    if 0.0 < percent < 1.0:
        raise ValueError(f"q is in percent, 0 or 1 to 100, got {q!r}; for the 80th write 80")
    if len(logit) == 0:
        raise ValueError("quantile_gamma needs at least one logit, got an empty tensor")
    middle = call("order_statistic", logit.device)(logit, percent)
    log_m, _, s = checks.threshold(logit, log_m, 0.0, eps)
    if isinstance(log_m, Tensor) and log_m.ndim:
        raise ValueError(f"log_m must be one number here, got {describe(log_m)}")
    _, q_minus = reference.exponential(log_m - middle.double())
    t = q_minus + s
    f = torch.where(t > 0.0, -reference.logarithm(t), torch.inf)
    return torch.clamp(
        torch.where(torch.isnan(middle), torch.nan, f), -checks.MAX_GAMMA, checks.MAX_GAMMA
    )
