"""How the bound of a squeezed run shifts the balance of classes or modes."""

from typing import NamedTuple

import torch
from torch import Tensor

from drs_fast import ops, zoo
from drs_fast.core import LABEL, Rng
from drs_fast.core.sampler import Described
from drs_fast.gan import classes
from drs_fast.store import Samples


class Balance(NamedTuple):
    """Columns have one number per group, (K,) float64. group: what a group is called."""

    group: str
    share: Tensor  # shares of the samples without a bound
    lost: Tensor  # what the bound loses, as a share of the group

    def kept(self) -> Tensor:
        """Shares of the samples with the bound."""
        left = self.share * (1.0 - self.lost)
        return left / left.sum()


def of_rows(group: str, of: Tensor, accepted: Tensor, passed: Tensor, seen: Tensor) -> Balance:
    """The balance from rows of `audit.tallied`; `of` (n,) int64 is the group of each row."""
    mass = torch.bincount(of, accepted / seen)
    lost = torch.bincount(of, (accepted - passed).clamp(min=0.0) / seen)
    return Balance(group, mass / mass.sum(), (lost / mass).nan_to_num())


def of_run(samples: Samples, said: Described) -> Balance | str:
    """By the labels, or by what a GAN of the zoo shows; or why it is not known."""
    if said.bounded is None or said.thresholds is None:
        return "no bound is used"
    ids, logit, bound, chance, proposed = said.bounded
    try:
        group, of = _groups(samples, proposed, ids)
    except RuntimeError as missing:
        return str(missing)
    by = said.thresholds.of_rows(of)
    accepted, passed = (ops.probability(judged, **by) for judged in (logit, bound))
    return of_rows(group, of, accepted, passed, chance.double())


def words(found: Balance | str) -> dict[str, str]:
    """The groups that lose and shift most, in words."""
    if isinstance(found, str):
        return {}
    group, share, lost = found
    worst, moved = int(lost.argmax()), (found.kept() - share).abs()
    return {
        f"most lost of a {group}": (
            f"{float(lost[worst]):.2%} of {group} {worst}, which has {float(share[worst]):.2%} of "
            "the samples"
        ),
        f"share of a {group}": f"shifts by at most {float(moved.max()):.3%} of the samples",
    }


def _groups(samples: Samples, proposed: Tensor, ids: Tensor) -> tuple[str, Tensor]:
    """What the groups are called, and the group of each row, (n,) int64."""
    manifest, rng = samples.manifest, Rng(samples.manifest["seed"])
    labels = manifest["labels"]
    if labels is not None and "y" in samples.columns:
        u = ops.uniform(rng, len(ids), stream=LABEL, ids=ids)
        weighted = proposed.tolist() or manifest["label_weights"] or ()
        return "class", classes.drawn(u, labels, tuple(weighted) or None)
    known = zoo.groups(manifest["model"])
    if known is None:
        raise RuntimeError("there are no labels, and the model is no GAN of the zoo")
    gan = zoo.load(manifest["model"])
    if gan.sha256() != manifest["model_sha256"]:
        raise RuntimeError("the model only has the name of a zoo GAN")
    group, of = known
    return group, of(gan.samples(ops.latents(gan, rng, len(ids), ids=ids)))
