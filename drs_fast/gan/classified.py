"""The critic of a GAN with an auxiliary classifier.

Source: Odena, Olah and Shlens, Conditional image synthesis with auxiliary classifier GANs, 2017.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from drs_fast.core.arguments import describe
from drs_fast.core.tensors import plain
from drs_fast.gan import calls, links
from drs_fast.gan.around import Around
from drs_fast.gan.precision import FP32


class Classified(Around):
    """x, y -> log p_data(x)/p_model(x) + log p(y|x), from a critic without labels and a classifier.

    discriminator: x (n, ...) -> scores, which the link turns into log ratios.
    classifier: x -> logits (n, labels), or a tuple that starts with them.
    """

    def __init__(
        self,
        discriminator: Callable[..., Any] | None,
        link: str | links.Link,
        classifier: Callable[[Tensor], Any],
        labels: int | None,
    ) -> None:
        super().__init__()
        if discriminator is None or labels is None or link in links.ENERGIES:
            raise ValueError(
                "a classifier needs labels=K, and a discriminator whose link gives a log ratio, "
                f"got discriminator={describe(discriminator)}, labels={labels}, link={link!r}; "
                "drs.keep_train makes such a critic of any"
            )
        calls.check_callable("discriminator", discriminator)
        calls.check_callable("classifier", classifier)
        links.check(link)
        self.discriminator, self.classifier = discriminator, classifier
        self.link = links.LINKS[link] if isinstance(link, str) else link
        self.labels = labels

    @property
    def inner(self) -> Callable[..., Any] | None:
        return self.discriminator

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        n, device = len(x), x.device
        # A copy, because the discriminator may write to its input.
        score = self._called("discriminator", self.discriminator, x.clone())
        score = calls.one_per_sample("discriminator", score, n, device, self.discriminator)
        logit = calls.one_per_sample("link", self.link(score), n, device)
        classes = self._scores(
            self._called("classifier", self.classifier, x), n, device
        ).log_softmax(dim=1)
        return logit + classes.gather(1, y[:, None])[:, 0]

    def _called(self, role: str, function: Callable[..., Any], x: Tensor) -> Any:
        return calls.result(role, function, (x,), "it is called with samples alone", FP32)

    def _scores(self, given: Any, n: int, device: torch.device) -> Tensor:
        scores = given[0] if isinstance(given, (tuple, list)) and given else given
        shape = f"({n}, {self.labels})"
        scores = plain("classifier", scores, f"a tensor of logits {shape}", "return")
        fits = scores.shape == (n, self.labels) and scores.device == device
        if not fits or not scores.is_floating_point():
            raise ValueError(
                f"classifier must return logits {shape} on {device}, got {describe(scores)}"
            )
        return scores.float()
