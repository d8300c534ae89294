"""Examines a GAN's samples and logits, finds what is wrong, and says how to fix it."""

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from drs_fast import ops
from drs_fast.core import BURN_IN_ROW, Rng
from drs_fast.core.arguments import integer, told
from drs_fast.core.out_of_memory import OutOfMemory
from drs_fast.doctor import (
    compared,
    coupling,
    precisions,
    probes,
    real_samples,
    satisfying,
    symptoms,
)
from drs_fast.doctor.probes import BLOCK, Finding
from drs_fast.doctor.symptoms import Chart, Sampled
from drs_fast.doctor.words import number
from drs_fast.gan import GAN, links, where
from drs_fast.gan.calls import NO_CRITIC
from drs_fast.training.fitting import of_gan

__all__ = ["Diagnosis", "Finding", "doctor"]


@dataclass(frozen=True, repr=False)
class Diagnosis:
    """What `doctor` found. Without findings, it saw nothing wrong in what it could check."""

    name: str
    findings: tuple[Finding, ...]
    figures: dict[str, float]
    notes: tuple[str, ...]
    unknown: tuple[str, ...] = ()  # checks that were not possible, and why

    @property
    def codes(self) -> tuple[str, ...]:
        """The short names of the findings."""
        return tuple(finding.code for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """Numbers, strings and lists, as JSON has them; `drs-fast doctor --json` prints them.

        name; findings: a list of {code, seen, remedy}; figures: numbers by name, None where there
        is none; notes and unknown: lists of strings. Codes and names stay from version to version.
        """
        return {
            "name": self.name,
            "findings": [finding._asdict() for finding in self.findings],
            "figures": {
                key: value if math.isfinite(value) else None for key, value in self.figures.items()
            },
            "notes": list(self.notes),
            "unknown": list(self.unknown),
        }

    def __repr__(self) -> str:
        codes = f" ({', '.join(self.codes)})" if self.codes else ""
        return f"<Diagnosis of {self._headline()}{codes}; print it for more>"

    def __str__(self) -> str:
        lines = [self._headline()]
        for code, seen, remedy in self.findings:
            lines += ["", code, f"  seen: {seen}", f"  do:   {remedy}"]
        width = max(map(len, self.figures), default=0)
        if self.figures:
            lines += ["", *(f"{key:<{width}}  {number(self.figures[key])}" for key in self.figures)]
        lines += [f"\ncannot tell {check}" for check in self.unknown]
        return "\n".join([*lines, *(f"\nnote: {note}" for note in self.notes)])

    def _headline(self) -> str:
        """How many problems, and whether all checks were possible."""
        count, left = len(self.findings), len(self.unknown)
        found = f"{count or 'no'} problem{'s'[count == 1 :]}"
        if count or not left:
            return f"{self.name}: {found}"
        checks = "1 check was" if left == 1 else f"{left} checks were"
        return f"{self.name}: {found} in what could be checked; {checks} not possible"


@of_gan
def doctor(gan: GAN, real: Any = None, n: int = 4096, seed: int = 0) -> Diagnosis:
    """Examines G and D on n generated samples, and on real ones if given here or with the GAN.

    real: samples (m, ...), with labels (x, y), or what else GAN(..., real=) takes; by default
        `gan.real` gives n of them. For the calibration, D should not have been trained on them.
        ValueError if samples given here cannot be used; if the GAN's own cannot, that is a finding.
    The rows are those of a run's burn-in with this seed, at least 512. Modules are left in the
    state they were found in.
    """
    size, patient = max(integer("n", n, 1), 2 * BLOCK), copy.copy(gan)
    patient.real = gan.real if real is None else real
    patient = patient.on(block=min(BLOCK, gan.block), precision="fp32")
    if real is not None:
        real_samples.check_given(patient, size)
    modules = probes.modules(patient)
    placed = tuple(probes.placement(modules))
    if placed:
        why = "whatever needs a call of G and D: their weights must be numbers on one device"
        return Diagnosis(gan.title, placed, {}, (), (why,))
    record = probes.Record(modules)
    try:
        with torch.random.fork_rng([gan.device] if gan.device.type == "cuda" else []):
            chart = Chart([], {}, [], [])
            if where.believes(patient):
                # Whether D is sound is a question of all samples.
                whole = where.unconditioned(patient)
                _examine(whole, record, modules, size, seed, chart)
            if where.names(patient):
                satisfying.examine(patient, size, seed, chart)
            else:
                _examine(patient, record, modules, size, seed, chart)
    finally:
        record.restore()
    return Diagnosis(
        gan.title, tuple(chart.findings), chart.figures, tuple(chart.notes), tuple(chart.unknown)
    )


def _examine(
    gan: GAN,
    record: probes.Record,
    modules: list[nn.Module],
    n: int,
    seed: int,
    chart: Chart,
) -> None:
    before = record.switched()
    if gan.discriminator is None:
        seen, _, remedy = NO_CRITIC.partition("; ")
        chart.findings.append(Finding("no-discriminator", seen, remedy))
        chart.unknown.append("whatever needs a discriminator, until it has one")
        return
    try:
        sampled = _sampled(gan, n, seed)
    except Exception as error:  # the user's code may raise anything
        grouped = coupling.look(gan)
        seen, _, remedy = told(error).partition("; ")
        if isinstance(error, OutOfMemory):
            chart.findings.append(Finding("fails", seen, remedy))
        elif grouped is not None:
            role, seen, remedy = grouped
            chart.findings.append(Finding(f"coupled-{role}", seen, remedy))
        else:
            chart.findings.append(
                Finding(
                    "fails",
                    told(error),
                    "G must map (n, latent_dim) float32 [and (n,) int64 labels] to n samples, and "
                    "D must map those to n numbers",
                )
            )
        chart.findings.extend(probes.calls(record, before))
        chart.unknown.append("whatever needs rows, samples or logits: G or D fails")
        return
    z = ops.latents(gan, Rng(seed, BURN_IN_ROW), 2 * BLOCK)
    y = None if sampled.y is None else sampled.y[: 2 * BLOCK]
    chart.findings.extend(probes.calls(record, before))
    chart.findings.extend(probes.functions(gan, z, y, seed))
    chart.findings.extend(probes.spectral_norms(modules))
    sound = not chart.findings  # so that a row in another precision is the same row
    few = slice(gan.block)
    some = None if y is None else y[few]
    chart.notes.extend(probes.in_place(gan, z[few], sampled.x[few], some))
    chart.findings.extend(symptoms.of_samples(sampled.x))
    chart.findings.extend(symptoms.of_logits(gan, sampled, chart.figures))
    if {finding.code for finding in chart.findings} & set(symptoms.UNUSABLE):
        chart.unknown.append("acceptance, classes and real samples, which need usable logits")
        return
    real = real_samples.real_of(gan, n, chart)
    chart.findings.extend(symptoms.of_weights(gan, sampled, real, chart))
    chart.findings.extend(compared.of_real(gan, sampled, real, n, seed, chart))
    if sound:
        precisions.examine(gan, sampled, seed, chart)


def _sampled(gan: GAN, n: int, seed: int) -> Sampled:
    link = links.LINKS[gan.link] if isinstance(gan.link, str) else gan.link
    raw: list[Tensor] = []

    def recording(score: Tensor) -> Tensor:
        raw.append(score.detach().clone())
        return link(score)

    recorder = copy.copy(gan)  # not gan.judged, which would put modules in eval mode
    recorder.link = recording
    rows, labels, logits, kept = [], [], [], 0
    for start in range(0, n, BLOCK):
        rng, size = Rng(seed, BURN_IN_ROW + start), min(BLOCK, n - start)
        y = ops.labels(gan, rng, size)
        x, logit = recorder.logits(ops.latents(gan, rng, size), y)
        labels.append(y)
        logits.append(logit)
        if start < 2 * BLOCK or kept + x.numel() <= symptoms.ELEMENTS:
            rows.append(x)
            kept += x.numel()
    y = None if gan.labels is None else torch.cat([y for y in labels if y is not None])
    return Sampled(torch.cat(rows), y, torch.cat(logits), torch.cat(raw)[:n].float())
