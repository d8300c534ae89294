"""What the bound of a squeezed run does to the balance of classes or modes."""

from typing import NamedTuple

import torch
from torch import Tensor

from drs_fast import ops, zoo
from drs_fast.core import LABEL, Rng
from drs_fast.core.sampler import Bounded
from drs_fast.gan import classes
from drs_fast.store import Samples


class Balance(NamedTuple):
    """group: what they are. Of each one, (K,) float64."""

    group: str
    share: Tensor  # of the samples without a bound
    lost: Tensor  # what the bound loses, as a share of the group

    def kept(self) -> Tensor:
        """Shares of the samples with the bound."""
        left = self.share * (1.0 - self.lost)
        return left / left.sum()


def of_rows(group: str, of: Tensor, accepted: Tensor, passed: Tensor, seen: Tensor) -> Balance:
    """From the rows of `audit.tallied`; of (n,) int64 says which group each is of."""
    mass = torch.bincount(of, accepted / seen)
    lost = torch.bincount(of, (accepted - passed).clamp(min=0.0) / seen)
    return Balance(group, mass / mass.sum(), (lost / mass).nan_to_num())


def of_run(samples: Samples, state: dict[str, Tensor], bounded: Bounded | None) -> Balance | str:
    """By the labels, or by what a GAN of the zoo shows; or why it is not known."""
    if bounded is None:
        return "no bound is used"
    ids, logit, bound, chance = bounded
    try:
        group, of = _groups(samples, state, ids)
    except RuntimeError as missing:
        return str(missing)
    log_m, gamma = state["log_m"], state["gamma"]
    if log_m.ndim:
        log_m, gamma = log_m[of], gamma[of]
    eps = samples.manifest.get("eps") or 0.0
    accepted, passed = (
        ops.probability(judged, log_m=log_m, gamma=gamma, eps=eps) for judged in (logit, bound)
    )
    return of_rows(group, of, accepted, passed, chance.double())


def words(found: Balance | str) -> dict[str, str]:
    """Its extremes."""
    if isinstance(found, str):
        return {}
    group, share, lost = found
    worst, moved = int(lost.argmax()), (found.kept() - share).abs()
    return {
        f"most lost of a {group}": (
            f"{float(lost[worst]):.2%} of {group} {worst}, which has {float(share[worst]):.2%} of "
            "the samples"
        ),
        f"share of a {group}": f"moves by {float(moved.max()):.3%} of the samples at most",
    }


def _groups(samples: Samples, state: dict[str, Tensor], ids: Tensor) -> tuple[str, Tensor]:
    """What rows fall into, and which of those each does, (n,) int64."""
    manifest, rng = samples.manifest, Rng(samples.manifest["seed"])
    labels = manifest["labels"]
    if labels is not None and "y" in samples.columns:
        u = ops.uniform(rng, len(ids), stream=LABEL, ids=ids)
        weighted = state["proposed"].tolist() or manifest["label_weights"] or ()
        return "class", classes.drawn(u, labels, tuple(weighted) or None)
    known = zoo.groups(manifest["model"])
    if known is None:
        raise RuntimeError("neither labels nor a GAN of the zoo tell the classes")
    gan = zoo.load(manifest["model"])
    if gan.sha256() != manifest["model_sha256"]:
        raise RuntimeError("the model only has the name of a GAN of the zoo")
    group, of = known
    return group, of(gan.samples(ops.latents(gan, rng, len(ids), ids=ids)))
