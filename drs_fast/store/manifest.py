"""manifest.json: every key with its type and meaning, and what must agree with the run's other
files.

Samplers add facts of their own, and later versions may add more: unknown keys are kept unchanged.
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict, cast

from drs_fast.core.laws import DATA, DATA_OF_ONE, DATA_WITHIN, MEANT
from drs_fast.store import kinds
from drs_fast.store.format import (
    MANIFEST,
    RECORDS,
    Altered,
    Conflict,
    Corrupt,
    Record,
    read_bytes,
    sealed,
    unsealed,
)
from drs_fast.store.kinds import (
    POSITIVE,
    SHA256,
    SIZE,
    Count,
    Flag,
    Interval,
    Kind,
    NumberOrNumbers,
    Positive,
    Seed,
    Sha256,
    Size,
    Text,
    Texts,
)

COPY = "restore a copy, or start over in another directory"


class SamplerSpec(TypedDict):
    """The sampler, with its plain fields beside these, and a wrapped sampler as one of them."""

    name: Annotated[Text, "of its class"]
    law_version: Annotated[Positive, "raised when other samples come out of the same fields"]


SAMPLER = Kind(
    "an object with a name and a law_version from 1 on",
    lambda value: isinstance(value, dict) and not kinds.wrong(SamplerSpec, value),
)


class Settings(TypedDict):
    """What was asked for. A command with the same settings resumes the run."""

    rng_version: Annotated[Positive, "of the random numbers"]
    weights_sha256: NotRequired[Annotated[Sha256, "of what the model has learnt"]]
    model_sha256: Annotated[Sha256, "of weights, architecture and code, as they were found"]
    probe_sha256: NotRequired[Annotated[str | None, SHA256.or_null, "of some samples and logits"]]
    sampler: Annotated[SamplerSpec, SAMPLER, "its name, law_version and plain fields"]
    seed: Annotated[Seed, "random seed"]
    batch_size: Annotated[Positive, "rows in a call of G and D"]
    device: Annotated[Text, "the kind of device: cpu or cuda"]
    precision: Annotated[Text, "of G and D: fp32 (IEEE, never TF32), tf32, bf16 or fp16"]
    tune: NotRequired[Annotated[Texts, "variants of G and D that were asked for"]]
    save: Annotated[Texts, "columns besides ids"]
    functions_sha256: NotRequired[Annotated[Sha256, "of the predicates and of decode"]]
    images: NotRequired[Annotated[Text, "the dtype that x was converted to: uint8 or float16"]]
    image_rule: NotRequired[Annotated[Text, "how it was converted"]]
    value_range: NotRequired[Annotated[Interval, "of x; uint8 has its ends as 0 and 255"]]
    label_weights: Annotated[
        list[float] | None, kinds.NUMBERS.or_null, "how often each class is proposed; null: alike"
    ]
    n: Annotated[Count, "samples in all"]
    complete: Annotated[Flag, "whether all samples are there"]


class Found(TypedDict):
    """What burn-in found; the state's file repeats it."""

    state_sha256: NotRequired[Annotated[Sha256, "of the state's file"]]
    chunk_rows: Annotated[Positive, "rows to try for each shard"]
    model: Annotated[Text, "where the model came from"]
    labels: Annotated[int | None, POSITIVE.or_null, "number of classes of the GAN"]
    version: Annotated[Text, "of drs_fast"]
    law: Annotated[Text, "distribution that the samples follow"]
    group: Annotated[Positive, "rows that belong together"]
    tallies: Annotated[Texts, "extra counters of the sampler"]
    eps: NotRequired[Annotated[float | None, SIZE.or_null, "eps of the acceptance probability"]]
    log_m: NotRequired[Annotated[NumberOrNumbers, "largest logit, in nats"]]
    gamma: NotRequired[Annotated[NumberOrNumbers, "subtracted from the score, in nats"]]
    acceptance: NotRequired[Annotated[Size, "expected share of accepted rows"]]
    tuned: NotRequired[Annotated[Texts, "variants of G and D that were kept"]]
    squeeze_used: NotRequired[Annotated[Flag, "whether a bound rejects rows"]]
    weighing: NotRequired[Annotated[Text, "how weights are found: equal, logit, batch, unknown"]]
    remark: NotRequired[Annotated[Text, "what burn-in found, in one line"]]
    flip_rate: NotRequired[Annotated[Size, "share of decisions that the precision changes"]]


class Totals(TypedDict):
    """What a complete run adds up to, besides the sampler's tallies."""

    proposals: Annotated[Count, "rows up to the last sample, in whole groups"]
    invalid: Annotated[Count, "logits that were NaN or +inf"]
    above: Annotated[Count, "logits above log_m"]
    calls_per_sample: Annotated[float | None, SIZE.or_null, "calls of G and D, without burn-in"]
    calls_total: Annotated[Count, "calls of G and D, with burn-in"]
    acceptance_rate: NotRequired[Annotated[Size, "share of a chain's proposals that it moved to"]]
    above_share: NotRequired[Annotated[Size, "share of samples above log_m"]]
    clipped: NotRequired[Annotated[Size, "share of the data that log_m leaves out"]]
    clipped_interval: NotRequired[Annotated[Interval, "95 % interval of clipped"]]
    effective_samples: NotRequired[Annotated[Size, "that weighted samples are worth"]]
    largest_weight: NotRequired[Annotated[Size, "of a sample, as a share of all weight"]]
    above_weight: NotRequired[Annotated[Size, "of samples above log_m, as a share of all weight"]]
    tail_index: NotRequired[Annotated[float | None, kinds.NUMBER.or_null, "of the largest weights"]]
    lost_mass: NotRequired[Annotated[Size, "share of the samples that a bound loses"]]
    lost_by_latent_mass: NotRequired[Annotated[Size, "share that networks alone would lose"]]
    lost_by_low_mass: NotRequired[Annotated[Size, "share that low precision alone would lose"]]
    lost_mass_interval: NotRequired[Annotated[Interval, "95 % interval of lost_mass"]]


class Manifest(Settings, Found, Totals):
    """All of manifest.json. `Found` is there after burn-in, `Totals` once the run is complete."""


def wrong(facts: Mapping[str, Any]) -> list[str]:
    """Which keys are missing or of the wrong kind, in words."""
    complete = facts.get("complete") is True
    problems = [
        *kinds.wrong(Settings, facts),
        *kinds.wrong(Found, facts, required="state_sha256" in facts),
        *kinds.wrong(Totals, facts, required=complete),
    ]
    if complete and not problems:
        problems += kinds.unlike(facts.get("tallies", ()), kinds.AMOUNT, facts)
    return problems


def written(facts: Mapping[str, Any]) -> bytes:
    """The bytes of a manifest. ValueError if a key is missing or of the wrong kind."""
    problems = wrong(facts)
    if problems:
        raise ValueError(f"{MANIFEST} cannot be written: {'; '.join(problems)}")
    return sealed(facts, indent=2)


def read_manifest(directory: Path) -> Manifest:
    """Reads manifest.json. Conflict if the directory is not a run, Corrupt if it is damaged."""
    path = directory / MANIFEST
    try:
        data = read_bytes(path)
    except (FileNotFoundError, NotADirectoryError):
        raise Conflict(f"{directory} is not a run: it holds no {MANIFEST}") from None
    if b'"crc32"' not in data:
        raise Conflict(f"{path} was not written by drs_fast, or is damaged; {COPY}")
    try:
        manifest = unsealed(data, indent=2)
    except Corrupt as error:
        raise Corrupt(f"{path} {error}; {COPY}") from None
    problems = wrong(manifest)
    if problems:
        raise Corrupt(f"{path}: {'; '.join(problems)}; {COPY}")
    return cast(Manifest, manifest)


def differing(manifest: Mapping[str, Any], others: Mapping[str, Any]) -> list[str]:
    """Where the manifest contradicts another file, in words."""
    return [
        f"{key} must be {json.dumps(value)}, got {json.dumps(manifest.get(key))}"
        for key, value in others.items()
        if json.dumps(manifest.get(key), sort_keys=True) != json.dumps(value, sort_keys=True)
    ]


def settled(manifest: Manifest) -> bool:
    """Whether the law is one that a run's counts can show, which burn-in could not know."""
    law = manifest.get("law", "").partition(MEANT)[0]
    exact = law in (DATA, DATA_WITHIN) or law.startswith(DATA_OF_ONE)
    return exact and not manifest.get("above")


def unfinished(manifest: Manifest, state: Found | None) -> dict[str, Any]:
    """The facts without those that only a complete run has. state: those of its state, if known."""
    ended = {*Totals.__annotations__, *manifest.get("tallies", ())}
    kept = {key: value for key, value in manifest.items() if key not in ended}
    return {**kept, **({} if state is None else {"law": state["law"]}), "complete": False}


def found(manifest: Manifest) -> dict[str, object]:
    """What it says of burn-in, which need not have ended."""
    return {key: value for key, value in manifest.items() if key in Found.__annotations__}


def check_totals(directory: Path, manifest: Manifest, records: Collection[Record]) -> None:
    """Altered if a complete manifest contradicts the sum of its records, when all are there."""
    if sum(record.count for record in records) == manifest["n"]:
        problems = differing(manifest, totals(records, manifest, manifest["n"]))
        if problems:
            raise Altered(
                f"{directory / MANIFEST} and {RECORDS} differ: {'; '.join(problems)}; {COPY}"
            )


def totals(records: Collection[Record], facts: Found, n: int) -> dict[str, Any]:
    """What the records of a complete run add up to."""
    sums = {
        name: sum(record.counters.get(name, 0) for record in records)
        for name in ("calls", "invalid", "above", *facts["tallies"])
    }
    calls, group = sums.pop("calls"), facts["group"]
    last = max((record.counters["last_row"] for record in records), default=-1)
    return {
        "proposals": (last // group + 1) * group,
        "calls_per_sample": calls / n if n else None,
        **sums,
    }
