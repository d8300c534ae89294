"""What a run is asked for: checked once, with the defaults that all ways to start one share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from drs_fast.core import Rng, Sampler
from drs_fast.core.arguments import integer, one_of, positive
from drs_fast.core.columns import SAVEABLE
from drs_fast.core.sampler import those_that
from drs_fast.gan import GAN, PRECISIONS, block_rows, classes, memory
from drs_fast.gan.calls import NO_CRITIC
from drs_fast.gan.images import FORMS
from drs_fast.run.worker import Worker
from drs_fast.tune import tuning

Weights = Sequence[float] | Tensor | None


@dataclass(frozen=True)
class Options:
    """The keyword arguments of `generate`, which says what they mean; ValueError for wrong ones.

    batch_size is rounded up to the rows of a block; save and tune are put in a fixed order.
    """

    seed: int = 0
    batch_size: int = 4096
    device: torch.device | str | None = None
    save: tuple[str, ...] = ("x", "logit")
    images: str | None = None
    max_proposals: int | None = None
    max_seconds: float | None = None
    patience: int = 1_000_000
    chunk_rows: int | None = None
    precision: str = PRECISIONS[0]
    tune: tuple[str, ...] = ()
    cuda_graph: bool = True
    label_weights: Weights = None
    only: int | None = None
    progress: bool = False
    worker: Worker | str | None = None

    def __post_init__(self) -> None:
        checked: dict[str, Any] = {
            "patience": integer("patience", self.patience, 1),
            "max_proposals": _optional("max_proposals", self.max_proposals),
            "chunk_rows": _optional("chunk_rows", self.chunk_rows),
            "seed": Rng(self.seed).seed,
            "batch_size": block_rows(self.batch_size),
            "save": _saved(self.save),
            "tune": tuning.check(self.tune),
        }
        if self.worker is not None:
            checked["worker"] = worker = Worker.parsed(self.worker)
            if worker.of > 1 and checked["tune"] == tuning.AUTO:
                raise ValueError(
                    "tune='auto' of several workers would choose differently; give tune by name, "
                    "as drs-fast plan recommends it"
                )
        if self.max_seconds is not None:
            checked["max_seconds"] = positive("max_seconds", self.max_seconds)
        if self.images is not None:
            one_of("images", self.images, FORMS)
        if self.only is not None and self.label_weights is not None:
            raise ValueError("give only or label_weights, got both only and label_weights")
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def placed(self, gan: GAN) -> GAN:
        """The GAN on the device and with the labels, the blocks and the precision asked for."""
        if not isinstance(gan, GAN):
            raise ValueError(f"gan must be a drs.GAN, got {type(gan).__name__}; use drs.load")
        weights = self.label_weights
        if self.only is not None:
            weights = classes.only(gan.labels, self.only)
        if weights is not None:
            gan = gan.labelled(weights)
        gan = gan.on(self.device, self.batch_size, self.precision).stored_as(self.images)
        memory.check_batch(gan)
        return gan

    def check(self, gan: GAN, sampler: Sampler) -> None:
        """ValueError where the sampler cannot do with this GAN or these options."""
        if gan.discriminator is None:
            raise ValueError(NO_CRITIC)
        if gan.energy and not sampler.energy:
            raise ValueError(
                f"{type(sampler).__name__} needs a density ratio, got a {gan.link} critic: make it "
                "one with drs.calibrate or drs.keep_train, or use a sampler that, with its default "
                f"fields, needs none: {those_that(lambda each: each.energy)}"
            )
        self.check_group(sampler.group)

    def check_group(self, group: int) -> None:
        """ValueError unless chunk_rows is the sampler's group times a power of two."""
        rows = self.chunk_rows
        if rows is not None and (rows % group or (rows // group) & (rows // group - 1)):
            times = "" if group == 1 else f"{group} times "
            next_one = group * 2 ** (-(-rows // group) - 1).bit_length()
            raise ValueError(
                f"chunk_rows must be {times}a power of two, such as {next_one}, got {rows}"
            )


def _optional(name: str, value: int | None) -> int | None:
    return None if value is None else integer(name, value, 1)


def _saved(save: tuple[str, ...]) -> tuple[str, ...]:
    """What is kept of every sample, in a fixed order."""
    names = tuple(save.split(",")) if isinstance(save, str) else tuple(save)
    unknown = [name for name in names if name not in (*SAVEABLE, "ids", "")]
    if unknown:
        raise ValueError(f"save must be of {', '.join(SAVEABLE)} (ids always), got {unknown[0]!r}")
    if "weight" in names:
        names = (*names, "logit")  # which tells most weights
    return tuple(name for name in SAVEABLE if name in names)
