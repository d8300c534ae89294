"""Losses from which a network R >= 0 learns the density ratio.

Source: Ding, Wang and Welch, Subsampling generative adversarial networks: density ratio estimation
in feature space with softplus loss, IEEE Transactions on Signal Processing 68 (2020).
"""

from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import softplus

Loss = Callable[[Tensor, Tensor, float], Tensor]  # of (real, generated, penalty)
SMALL = 1e-14  # keeps logarithms in the losses finite


def softplus_loss(real: Tensor, generated: Tensor, penalty: float) -> Tensor:
    """Loss of ratios R of real and of generated samples; the density ratio minimises it."""
    share = generated.sigmoid()
    inner = (share * generated - softplus(generated)).mean() - real.sigmoid().mean()
    return inner + penalty * (generated.mean() - 1).square()


def ulsif_loss(real: Tensor, generated: Tensor, penalty: float) -> Tensor:
    """Least-squares loss; the density ratio minimises it.

    Errors count by their size in R. So if R spans orders of magnitude, small R, and thus log R, are
    hardly learned: between N(2, 1) and N(0, 1) no slope of log R came near the true 2.
    """
    inner = generated.square().mean() / 2 - real.mean()
    return inner + penalty * (generated.mean() - 1).square()


def dskl_loss(real: Tensor, generated: Tensor, penalty: float) -> Tensor:
    """Linear in log R. It has no minimiser and is here for comparison only."""
    inner = (generated + SMALL).log().mean() - (real + SMALL).log().mean()
    return inner + penalty * (generated.mean() - 1).square()


def barr_loss(real: Tensor, generated: Tensor, penalty: float) -> Tensor:
    """Minimised by the density ratio if penalty >= 1, otherwise by the ratio / penalty.

    The mean over n rows differs from 1 by about sd(R) / sqrt(n) even for the true ratio. So on
    batches the penalty also reduces the spread of R: between N(1, 1) and N(0, 1) at n = 512, it
    lowers the slope of log R from 1 to .98 for a penalty of 1, and to .56 for 10.
    """
    return penalty * (generated.mean() - 1).abs() - (real + SMALL).log().mean()


LOSSES: dict[str, Loss] = {
    "softplus": softplus_loss,
    "ulsif": ulsif_loss,
    "dskl": dskl_loss,
    "barr": barr_loss,
}
GRID = (0.0, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0)  # the paper's
# The paper's for "barr" is 10; 1 is the least at which the ratio is the minimiser.
PENALTIES = {"softplus": GRID, "ulsif": GRID, "dskl": (0.0,), "barr": (1.0,)}
