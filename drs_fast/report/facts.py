"""What there is to say of a run, in numbers and words."""

from pathlib import Path

import torch
from torch import Tensor

from drs_fast import ops, samplers
from drs_fast.core import Nothing, Sampler, layout
from drs_fast.core.sampler import Described, Recorded
from drs_fast.gan import GAN, classes
from drs_fast.gan.gan import UNNAMED
from drs_fast.gan.images import OUTSIDE
from drs_fast.report import balance, planned
from drs_fast.report.balance import Balance
from drs_fast.run import stopwatch, weighed
from drs_fast.samplers.common.effective import TRUSTED
from drs_fast.samplers.common.rejection import RejectionSampler
from drs_fast.squeeze import Squeeze
from drs_fast.store import Samples
from drs_fast.store.manifest import Manifest, SamplerSpec

READ = 1_000_000  # most samples for quantiles and pictures, to limit memory
LISTED = 10  # most classes to list one by one
QUANTILES = {"lowest": 0.0, "5 %": 0.05, "25 %": 0.25, "50 %": 0.5, "75 %": 0.75, "95 %": 0.95,
             "highest": 1.0}  # fmt: skip


def of_run(samples: Samples, said: Described, balanced: Balance | str) -> dict[str, str]:
    """What there is to say of a run, by name."""
    manifest, n = samples.manifest, len(samples)
    counters = counted(samples)
    squeezed = manifest["sampler"]["name"] == Squeeze.__name__
    whole = "complete" if manifest["complete"] else f"unfinished, of {manifest['n']:,}"
    known = {
        "model": manifest.get("model"),
        "sampler": _sampler(manifest["sampler"]),
        "law": manifest.get("law"),
        "seed": str(manifest["seed"]),
        "samples": f"{n:,} ({whole})",
        "proposals": f"{counters['proposals']:,}",
        "acceptance": _acceptance(n, counters["proposals"], manifest.get("acceptance")),
        **{name: _range(value) for name, value in said.limits.items()},
        "eps": None if manifest.get("eps") is None else str(manifest["eps"]),
        "G + D calls per sample": planned.calls(manifest, counters["calls"], n, squeezed),
        "invalid logits": f"{counters['invalid']:,}",
        **_images(manifest, counters),
        said.above: f"{counters['above']:,}",
        **planned.worth(_with_worth(samples), n, said.thresholds, said.logits),
        **said.lines,
        "moves accepted": _percent(manifest.get("acceptance_rate")),
        **_classes(samples),
        **balance.words(balanced),
        "time": stopwatch.words(samples.seconds) if samples.seconds else None,
    }
    raw = said.logits
    if raw is not None and bool(torch.isfinite(raw).any()):
        known["raw samples, weighted"] = (
            f"{_effective_share(raw):.2%} effective, (sum w)^2 / (n sum w^2), w = exp(logit)"
        )
    return {name: value for name, value in known.items() if value is not None}


def named(manifest: Manifest, gan: GAN | None) -> str:
    """The model; if it was given no name, and is at hand, by its classes."""
    name = str(manifest.get("model", "run"))
    return gan.title if gan is not None and name == UNNAMED else name


def warnings(samples: Samples, known: dict[str, str]) -> list[str]:
    """What a reader of the samples should know, in sentences."""
    manifest, counters, n = samples.manifest, counted(samples), len(samples)
    found = []
    if not manifest["complete"]:
        found.append(
            f"The run is unfinished: it holds {n:,} of {manifest['n']:,} samples. The command that "
            "made it goes on where it stopped."
        )
    if counters["invalid"]:
        found.append(
            f"{counters['invalid']:,} logits were NaN or +inf, and their rows were rejected."
        )
    expected, tried = manifest.get("acceptance"), counters["proposals"]
    if expected and n >= 100 and abs(n / tried / expected - 1.0) > 0.2:
        found.append(
            f"{n / tried:.2%} of the proposals were accepted, but burn-in let one expect "
            f"{expected:.2%}: it saw too few of the largest logits. Raise burn_in."
        )
    beyond = manifest.get("above_weight", 0.0)
    if beyond > 0.01:
        found.append(
            f"Samples above log_m hold {beyond:.2%} of all weight, so there are too few of them "
            "unless they are weighted. Raise burn_in, or give log_m."
        )
    tail = manifest.get("tail_index")
    if tail is not None and tail > TRUSTED:
        found.append(f"The tail index of the weights is {tail:.2f}, {known['tail index'][6:]}.")
    if counters.get(OUTSIDE):
        found.append(
            f"{counters[OUTSIDE]:,} samples did not fit the range of whole numbers, and were cut."
        )
    return found


def quantiles(samples: Samples, said: Described) -> dict[str, list[float]]:
    """Those of the finite logits, of the levels in QUANTILES."""
    groups = {"raw (burn-in)": said.logits, "accepted": accepted_logits(samples)}
    found = {}
    for name, logit in groups.items():
        finite = None if logit is None else logit[torch.isfinite(logit)].double()
        if finite is not None and len(finite):
            levels = finite.new_tensor(list(QUANTILES.values()))
            found[name] = torch.quantile(finite, levels).tolist()
    return found


def _with_worth(samples: Samples) -> Manifest:
    """The manifest with what the samples are worth so far, if the run is unfinished."""
    manifest = samples.manifest
    if manifest["complete"] or not len(samples):
        return manifest
    found: Manifest = {**manifest, **weighed.worth_of(samples)}  # type: ignore[typeddict-item]
    return found


def _images(manifest: Manifest, counters: dict[str, int]) -> dict[str, str]:
    """What x was converted to, and how many samples did not fit."""
    if "images" not in manifest:
        return {}
    low, high = manifest.get("value_range", (-torch.inf, torch.inf))
    of = f", 0 for {low:g} and 255 for {high:g}" if "value_range" in manifest else ""
    return {
        "images": f"{manifest['images']}{of}",
        "samples that do not fit": f"{counters.get(OUTSIDE, 0):,}",
    }


def _classes(samples: Samples) -> dict[str, str]:
    """How often each class was proposed, and how many samples each has."""
    labels, weights = samples.manifest.get("labels"), samples.manifest.get("label_weights")
    if not labels or "y" not in samples.columns:
        return {}
    found = torch.bincount(samples.y[:READ], minlength=labels)
    few, most = int(found.min()), int(found.max())
    listed = ", ".join(f"{k}: {count:,}" for k, count in enumerate(found.tolist()))
    spread = f"{few:,} to {most:,} in each of {labels:,}"
    proposed = "all equal" if weights is None else ", ".join(f"{w:.3g}" for w in weights[:LISTED])
    more = ", ..." if weights is not None and labels > LISTED else ""
    return {
        "label weights": proposed + more,
        "samples of classes": listed if labels <= LISTED else spread,
    }


def described(samples: Samples, state: dict[str, Tensor]) -> Described:
    """What the run's sampler says of it, which may not be built in."""
    manifest, counters = samples.manifest, counted(samples)
    tallies = {name: counters[name] for name in manifest.get("tallies", ()) if name != OUTSIDE}
    eps, remark = manifest.get("eps") or 0.0, manifest.get("remark", "")
    run = Recorded(Nothing(), tallies, counters["proposals"], eps, remark)
    kinds: tuple[type[Sampler], ...] = (Squeeze, *samplers.kinds())
    name = manifest["sampler"]["name"]
    known = [(kind.State, kind.described) for kind in kinds if kind.__name__ == name]
    for kept, told in (*known, (RejectionSampler.State, RejectionSampler.described)):
        if not layout.unlike(kept, state, manifest.get("labels")):
            return told(run._replace(state=kept(**state)))
    return Sampler.described(run)


def state_of(samples: Samples) -> dict[str, Tensor]:
    """The sampler's state; empty if the run stopped before its burn-in ended."""
    return samples.state if "state_sha256" in samples.manifest else {}


def scores(samples: Samples, said: Described) -> tuple[Tensor, Tensor] | None:
    """F and the acceptance probability of the burn-in proposals, (n,) float64 each.

    None if the sampler does not say what it accepted them by.
    """
    logit, thresholds = said.logits, said.thresholds
    if logit is None or thresholds is None:
        return None
    y = None
    if thresholds.log_m.ndim:  # one per class, but the state does not keep the labels
        labels, weights = len(thresholds.log_m), samples.manifest["label_weights"]
        y = classes.turns(labels, weights, 0, len(logit))
    of_rows = thresholds.of_rows(y)
    d = logit.double() - of_rows["log_m"]
    score = d - torch.log(-torch.expm1((d - of_rows["eps"]).clamp(max=0.0))) - of_rows["gamma"]
    return score, ops.probability(logit, **of_rows)


def heading(samples: Samples, gan: GAN | None = None) -> str:
    """Model, samples and acceptance in one line."""
    tried, n = counted(samples)["proposals"], len(samples)
    model = Path(named(samples.manifest, gan)).name
    return f"{model}: {n:,} samples, acceptance {_acceptance(n, tried)}"


def accepted_logits(samples: Samples) -> Tensor | None:
    """The logits of samples, if there are any."""
    saved = "logit" in samples.columns and len(samples) > 0
    return samples.logit[:READ] if saved else None


def counted(samples: Samples) -> dict[str, int]:
    """The sums of the records of all readable shards."""
    manifest = samples.manifest
    totals = {
        key: sum(record.counters.get(key, 0) for record in samples.records)
        for key in ("calls", "invalid", "above", *manifest.get("tallies", ()))
    }
    whole_chunks = len(samples.counts) * manifest.get("chunk_rows", 0)
    return {**totals, "proposals": manifest.get("proposals", whole_chunks)}


def _acceptance(n: int, proposals: int, expected: float | None = None) -> str:
    found = f"{n / proposals:.2%}" if proposals else "unknown"
    return found if expected is None else f"{found} ({expected:.2%} expected in burn-in)"


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{share:.2%} of the proposals"


def _sampler(spec: SamplerSpec) -> str:
    fields = {key: value for key, value in spec.items() if key != "name" and value is not None}
    return f"{spec['name']}({', '.join(f'{key}={value}' for key, value in fields.items())})"


def _range(value: Tensor) -> str:
    if value.numel() == 1:
        return f"{float(value):.6g}"
    return f"{float(value.min()):.6g} to {float(value.max()):.6g} over {value.numel()} classes"


def _effective_share(logit: Tensor) -> float:
    weight = logit[torch.isfinite(logit)].double()
    weight = torch.exp(weight - weight.max())
    return float(weight.sum() ** 2 / (len(logit) * (weight**2).sum()))
