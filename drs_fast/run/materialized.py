"""The samples of a run, with x and z made again from the rows that their ids name."""

import dataclasses
import functools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from drs_fast.core import RNG_VERSION, Batch, Rng, Sampler, fingerprint, layout
from drs_fast.core.columns import COLUMNS
from drs_fast.core.sampler import Remade, named
from drs_fast.core.words import counted
from drs_fast.gan import GAN
from drs_fast.gan.precision import nearest
from drs_fast.run import probe, spec
from drs_fast.squeeze import Squeeze
from drs_fast.store import Conflict, Corrupt, Samples
from drs_fast.tune import tuning

CHECKED = 256  # samples whose logits are compared, evenly from all
# Standard deviations by which logits may differ on other devices: factors of TF32 have 11 bits.
ELSEWHERE = 0.05
MADE = ("x", "z")


class Materialized(Dataset[dict[str, Tensor]]):
    """The samples of a run in its order, with x and z made again when they are asked for.

    What `samples.materialize(gan)` returns. made[i] is a dict of the tensors of row i, as of
    `samples`, and takes slices, masks and index tensors as well; `batches` yields them all. Tensors
    are on the GAN's device. Rows that are asked for together go through G together, so take as many
    as the run's batch_size: on a GPU fewer take as long.
    """

    def __init__(
        self, samples: Samples, gan: GAN, device: torch.device | str | None = None
    ) -> None:
        self.samples = samples
        self._sampler = _sampler(samples.manifest["sampler"])
        untuned = _placed(gan, samples.manifest, device)
        self.gan = _tuned(untuned, samples.manifest["tuned"])
        tensors = {name: t.to(self.gan.device) for name, t in samples.state.items()}
        problems = layout.unlike(self._sampler.State, tensors, self.gan.labels)
        if problems:
            raise Corrupt(f"the state of {samples.path} is of another sampler: {problems[0]}")
        self._state = self._sampler.State(**tensors)
        self._saved = tuple(name for name in samples.columns if name not in MADE)
        columns = {"logit", *self._saved, *MADE}
        self.columns = tuple(name for name in COLUMNS if name in columns)
        self._check(untuned)

    def __repr__(self) -> str:
        made = " and ".join(MADE)
        return f"<{len(self):,} samples of {self.samples.path}, {made} made again by {self.gan!r}>"

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: Any) -> dict[str, Tensor]:
        saved = self.samples.read(self._saved, index)
        if saved["ids"].ndim:
            return self._with_made(saved)
        row = self._with_made({name: value[None] for name, value in saved.items()})
        return {name: rows[0] for name, rows in row.items()}

    def __getitems__(self, indices: list[int]) -> list[dict[str, Tensor]]:
        """The rows of one DataLoader batch, in calls of G for all of them."""
        batch = self[indices]
        return [{name: rows[i] for name, rows in batch.items()} for i in range(len(indices))]

    def batches(self, start: int = 0) -> Iterator[Batch]:
        """Yields the samples from number `start` on, as many at a time as the run's batch_size."""
        for first in range(start, len(self), self.gan.block):
            rows = slice(first, min(first + self.gan.block, len(self)))
            found = self[rows]
            yield Batch(
                x=found["x"],
                z=found["z"],
                y=found.get("y"),
                logit=found["logit"],
                ids=found["ids"],
                count=torch.tensor(rows.stop - rows.start, device="cpu"),
                stats={},
                weigh=functools.partial(_weights, self.samples, rows, self.gan.device),
            )

    def _with_made(self, saved: Mapping[str, Tensor]) -> dict[str, Tensor]:
        rows = {name: value.to(self.gan.device) for name, value in saved.items()}
        made = self._made(rows, judged="logit" not in rows)
        if made.logit is not None:
            rows["logit"] = made.logit
        rows |= {"x": self.gan.kept(made.x, rows["ids"])["x"], "z": made.z}
        return {name: rows[name] for name in self.columns}

    def _made(self, rows: Mapping[str, Tensor], judged: bool) -> Remade:
        rng = Rng(self.samples.manifest["seed"])
        return self._sampler.remade(
            self.gan, self._state, rows["ids"], rows.get("y"), rng, judged=judged
        )

    def _check(self, untuned: GAN) -> None:
        """Conflict where G and D are others; a warning where their numbers differ in last bits."""
        n = len(self)
        spread = torch.linspace(0, max(n - 1, 0), min(n, CHECKED), device="cpu").round().long()
        saved = self.samples.read(self._saved, spread)
        rows = {name: value.to(self.gan.device) for name, value in saved.items()}
        logit = probe.with_weights(
            self.gan, self.samples.manifest, lambda: self._made(rows, judged=True).logit
        )
        if self.samples.manifest.get("functions_sha256", "") != spec.of_functions(self.gan):
            raise Conflict(
                f"{self.samples.path} was made with another predicate or decode, or the code that "
                "they use has changed: give those of the run"
            )
        if data := self._sampler.data(self.gan):
            kept = self.samples.manifest["sampler"].get("data_sha256")
            if fingerprint.sha256(*data) != kept:
                raise Conflict(f"{self.samples.path} was made with other real samples: give these")
        if logit is not None and "logit" in rows:
            self._compare(logit.double(), rows["logit"].double(), untuned)
        elif probe.differs(self.gan, self.samples.manifest):
            self._warn("other numbers than in the run; without saved logits nobody knows by how")

    def _compare(self, logit: Tensor, saved: Tensor, untuned: GAN) -> None:
        if torch.equal(logit, saved):
            return
        largest = float((logit - saved).abs().max())
        usual = tuning.seen(untuned, tuning.LEAST_ROWS)
        finite = usual.logit[torch.isfinite(usual.logit)]
        share = max(tuning.limit(untuned, usual).logit, ELSEWHERE)
        most = share * float(finite.std())
        if not largest <= most:
            raise Conflict(
                f"{self.samples.path} was made with another model, or code or files that it uses "
                f"have changed: logits of {counted(len(saved), 'sample')} differ by up to "
                f"{largest:.3g} from the saved ones, and other devices or versions explain at "
                f"most {most:.3g}"
            )
        self._warn(f"logits that differ by up to {largest:.3g} from the saved ones")

    def _warn(self, what: str) -> None:
        device = self.samples.manifest["device"]
        warnings.warn(
            f"on {self.gan.device.type}, with this version of PyTorch, G and D give {what}; x and "
            f"z are not bit for bit those of the run, which was made on {device}",
            stacklevel=6,
        )


def _weights(samples: Samples, rows: slice, device: torch.device) -> Tensor:
    return samples.weight[rows].to(device)


def _sampler(spec: Mapping[str, Any]) -> Sampler:
    """The sampler that a manifest describes, without functions that were given to it."""
    kind = Squeeze if spec["name"] == Squeeze.__name__ else named(spec["name"])
    if kind is None:
        raise ValueError(
            f"{spec['name']} is no sampler of drs_fast, which therefore cannot make its samples "
            "again; generate with --save x (and z)"
        )
    if kind.remade is Sampler.remade:
        raise ValueError(
            f"{spec['name']} moves samples after G has made them, so their ids do not tell them; "
            "generate again with --save x (and z)"
        )
    if spec["law_version"] != kind.law_version:
        raise Conflict(
            f"this run was made by law_version {spec['law_version']} of {spec['name']}, and this "
            f"is {kind.law_version}: use the version of drs_fast that made it"
        )
    fields = {
        field.name: _sampler(spec[field.name]) if field.name == "sampler" else spec[field.name]
        for field in dataclasses.fields(kind)
        if field.name in spec
    }
    return kind(**fields)


def _placed(gan: GAN, manifest: Mapping[str, Any], device: torch.device | str | None) -> GAN:
    """The GAN as the run used it."""
    if not isinstance(gan, GAN):
        raise ValueError(f"gan must be a drs.GAN, got {type(gan).__name__}; use drs.load")
    if manifest["rng_version"] != RNG_VERSION:
        raise Conflict(
            f"the run has random numbers of version {manifest['rng_version']}, and this is "
            f"{RNG_VERSION}: use the version of drs_fast that made it"
        )
    if gan.labels != manifest["labels"]:
        raise Conflict(
            f"the run was made with a GAN of labels={manifest['labels']}, got labels={gan.labels}"
        )
    if "value_range" in manifest:
        gan = gan.ranging(*manifest["value_range"])
    if gan.labels is not None:
        gan = gan.labelled(manifest["label_weights"])
    gan = gan.on(device, manifest["batch_size"])
    gan = gan.on(precision=nearest(manifest["precision"], gan.device))
    return gan.stored_as(manifest.get("images"))


def _tuned(gan: GAN, names: Sequence[str]) -> GAN:
    try:
        return tuning.applied(gan, tuple(names))
    except ValueError as error:
        raise ValueError(
            f"the run had tune={tuple(names)!r}, without which x has other bits, and here it fails "
            f"({error}); use a machine like the run's"
        ) from error
