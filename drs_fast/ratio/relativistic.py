"""Relativistic critics, which learn how much more real a sample is than those of the other kind.

Let C be the critic, m_d and m_g its means over real and generated samples, and s the sigmoid. If
gradients flow through the batch means, setting the derivative of the loss with respect to C(x) to 0
gives the optimum

    RSGAN    r = exp(C), up to a constant factor
    RaSGAN   r = (s(C - m_d) + A) / (s(m_g - C) + B),  A = E_d s(m_g - C),  B = E_g s(C - m_d)
    RLSGAN   r = (C - m_d + 1) / (m_g + 1 - C)
    RaLSGAN  r = (k + c) / (k - c),  c = C - (m_d + m_g) / 2,  k = 2 - 3/2 (m_d - m_g)

RSGAN and RLSGAN compare pairs, RaSGAN and RaLSGAN averages. A RaHinge critic gives many ratios the
same output. Code that compares real samples with the generated mean only, as early code for RaSGAN
and RaLSGAN did, does not train a ratio.
Source: Jolicoeur-Martineau, The relativistic discriminator (2019); maps derived here.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from drs_fast.gan import GAN, links
from drs_fast.ratio.held_out import Logits, enough, held_out, varied
from drs_fast.training.fitting import of_gan

LOSSES = ("RSGAN", "RaSGAN", "RLSGAN", "RaLSGAN")


class AverageLogistic(nn.Module):
    """RaSGAN's map; its buffers are the means and the two constants A and B."""

    real_mean: Tensor
    generated_mean: Tensor
    a: Tensor
    b: Tensor

    def __init__(self, critic: Logits) -> None:
        super().__init__()
        m_d, m_g = critic.real.mean(), critic.generated.mean()
        self.register_buffer("real_mean", m_d)
        self.register_buffer("generated_mean", m_g)
        self.register_buffer("a", torch.sigmoid(m_g - critic.real).mean())
        self.register_buffer("b", torch.sigmoid(critic.generated - m_d).mean())

    def forward(self, score: Tensor) -> Tensor:
        wide = score.double()
        above = logsigmoid(wide - self.real_mean)
        below = logsigmoid(self.generated_mean - wide)
        return torch.logaddexp(above, self.a.log()) - torch.logaddexp(below, self.b.log())


class LeastSquares(nn.Module):
    """log (C - fake) / (real - C), with C kept between the two targets."""

    fake: Tensor
    real: Tensor

    def __init__(self, fake: float, real: float) -> None:
        super().__init__()
        self.register_buffer("fake", torch.tensor(fake, dtype=torch.float64, device="cpu"))
        self.register_buffer("real", torch.tensor(real, dtype=torch.float64, device="cpu"))

    def forward(self, score: Tensor) -> Tensor:
        return links.least_squares(score, fake=self.fake, real=self.real)


@of_gan
def relativistic(gan: GAN, loss: str = "RSGAN", n: int = 10_000, seed: int = 0) -> GAN:
    """This GAN with its critic's output turned into a log ratio.

    loss: the loss the critic was trained with: "RSGAN", "RaSGAN", "RLSGAN" or "RaLSGAN".
    n: real samples, assumed to be held out, and as many generated ones, to take the means over.
    With labels, the means are over all classes, as in training.
    """
    if loss == "RaHinge":
        raise ValueError(
            "a RaHinge critic has one output for many ratios, so no map turns it into a ratio; use "
            "drs.keep_train(gan)"
        )
    if loss not in LOSSES:
        raise ValueError(f"loss must be one of {LOSSES}, got {loss!r}")
    own = links.LINKS[gan.link] if isinstance(gan.link, str) else gan.link
    if isinstance(gan.link, str) and own is not links.identity:
        raise ValueError(
            f"a relativistic critic's output must be used unchanged, but this GAN has "
            f"link={gan.link!r}; build it with link='logit'"
        )
    critic = gan.judged(link=own)
    if loss == "RSGAN":
        return critic
    logits = held_out(critic, n, seed).finite()
    enough(logits)
    varied(logits)
    return gan.judged(link=links.after(own, link_of(loss, logits)))


def link_of(loss: str, critic: Logits) -> nn.Module:
    """The map for this loss, with means over these outputs of the critic."""
    if loss == "RaSGAN":
        return AverageLogistic(critic)
    m_d, m_g = float(critic.real.mean()), float(critic.generated.mean())
    middle, apart = (m_d + m_g) / 2, m_d - m_g
    half = 1.0 - apart / 2 if loss == "RLSGAN" else 2.0 - 1.5 * apart
    if half <= 0.0:
        raise ValueError(
            f"the critic's means over real and generated samples, {m_d:.4g} and {m_g:.4g}, are "
            f"further apart than at the optimum of {loss}, where they differ by at most 1; is this "
            "the right loss? If so, use drs.calibrate(gan, 'isotonic') or drs.keep_train(gan)"
        )
    return LeastSquares(middle - half, middle + half)
