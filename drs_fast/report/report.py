"""What a run did, in words and pictures."""

import os
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor

from drs_fast import ops, samplers
from drs_fast.core import Nothing, Sampler, layout
from drs_fast.core.sampler import Described, Recorded
from drs_fast.core.words import counted
from drs_fast.gan import classes
from drs_fast.gan.images import OUTSIDE
from drs_fast.report import balance, pictures, planned
from drs_fast.report.balance import Balance
from drs_fast.report.pictures import Panel, Square
from drs_fast.run import stopwatch, weighed
from drs_fast.samplers.common.rejection import RejectionSampler
from drs_fast.squeeze import Squeeze
from drs_fast.store import Samples, open_run
from drs_fast.store.manifest import Manifest, SamplerSpec

READ = 1_000_000  # most samples for quantiles and pictures, to limit memory
BEST = 64
LISTED = 10  # most classes to list one by one
QUANTILES = {"lowest": 0.0, "5 %": 0.05, "25 %": 0.25, "50 %": 0.5, "75 %": 0.75, "95 %": 0.95,
             "highest": 1.0}  # fmt: skip


def write(
    path: str | PathLike[str], out: str | PathLike[str] | None = None
) -> tuple[str, list[Path]]:
    """Writes a run's report and its pictures to `out`, by default beside the run in PATH-report.

    The run itself, finished or not, is not changed. What cannot be drawn is left out, and
    the text says so. RuntimeError without matplotlib, ValueError if `out` is within the run.
    """
    pictures.check()
    run = Path(os.path.abspath(path))
    folder = run.with_name(f"{run.name}-report") if out is None else Path(out)
    if run.resolve() in (folder.resolve(), *folder.resolve().parents):
        raise ValueError(f"out must be outside the run, got {folder}; choose another --out")
    samples = open_run(path)
    folder.mkdir(parents=True, exist_ok=True)
    said = described(samples, state_of(samples))
    balanced = balance.of_run(samples, said)
    drawn, reasons = _draw(samples, said, balanced, folder)
    text = words(samples, said, balanced)
    if reasons:
        text += "\nnot drawn" + "".join(f"\n  {reason}" for reason in reasons)
    return text, drawn


def words(samples: Samples, said: Described, balanced: Balance | str) -> str:
    """The numbers of a run, one a line."""
    manifest, n = samples.manifest, len(samples)
    counters = _counters(samples)
    squeezed = manifest["sampler"]["name"] == Squeeze.__name__
    whole = "complete" if manifest["complete"] else f"unfinished, of {manifest['n']:,}"
    facts = {
        "model": manifest.get("model"),
        "sampler": _sampler(manifest["sampler"]),
        "law": manifest.get("law"),
        "seed": manifest["seed"],
        "samples": f"{n:,} ({whole})",
        "proposals": f"{counters['proposals']:,}",
        "acceptance": _acceptance(n, counters["proposals"], manifest.get("acceptance")),
        **{name: _range(value) for name, value in said.limits.items()},
        "eps": manifest.get("eps"),
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
    raw, accepted = said.logits, _accepted(samples)
    if raw is not None and bool(torch.isfinite(raw).any()):
        facts["raw samples, weighted"] = (
            f"{_effective_share(raw):.2%} effective, (sum w)^2 / (n sum w^2), w = exp(logit)"
        )
    lines = [f"{samples.path}"]
    lines += [f"  {name:<24}{value}" for name, value in facts.items() if value is not None]
    lines += _table({"raw (burn-in)": raw, "accepted": accepted})
    if n > READ:
        lines.append(f"  quantiles, classes and pictures use the first {READ:,} samples")
    return "\n".join(lines)


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
    manifest, counters = samples.manifest, _counters(samples)
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


def heading(samples: Samples) -> str:
    """Model, samples and acceptance in one line."""
    tried, n = _counters(samples)["proposals"], len(samples)
    model = Path(samples.manifest.get("model", "run")).name
    return f"{model}: {counted(n, 'sample')}, acceptance {_acceptance(n, tried)}"


def _draw(
    samples: Samples, said: Described, balanced: Balance | str, folder: Path
) -> tuple[list[Path], list[str]]:
    """Draws the pictures; returns their paths, and why others are missing."""
    title = heading(samples)
    drawn: list[Path] = []
    reasons: list[str] = []
    found = scores(samples, said)
    if found is None:
        begun = "state_sha256" in samples.manifest
        lacking = "the sampler's state does not hold logits, log_m and gamma"
        reasons.append(f"scores: {lacking if begun else 'burn-in has not ended'}")
    else:
        drawn.append(pictures.scores(folder / "scores.png", *found, title))
    if said.bounded is not None:
        _, logit, bound, chance, _ = said.bounded
        drawn.append(pictures.bounds(folder / "bounds.png", logit, bound, chance, title))
        if isinstance(balanced, str):
            reasons.append(f"balance: {balanced}")
        else:
            drawn.append(pictures.balance(folder / "balance.png", balanced, title))
    accepted = _accepted(samples)
    groups = {
        f"{name}, {len(logit):,}": logit
        for name, logit in (("raw (burn-in)", said.logits), ("accepted", accepted))
        if logit is not None and bool(torch.isfinite(logit).any())
    }
    if accepted is None:
        reasons.append(f"accepted logits: {_absence(samples, 'logit')}")
    if groups:
        drawn.append(pictures.logits(folder / "logits.png", groups, title))
    picture, reason = _draw_samples(samples, accepted, folder / "samples.png", title)
    return drawn + picture, reasons + reason


def _draw_samples(
    samples: Samples, logit: Tensor | None, path: Path, title: str
) -> tuple[list[Path], list[str]]:
    if "x" not in samples.columns or len(samples) == 0:
        return [], [f"samples: {_absence(samples, 'x')}"]
    shape = tuple(samples.x.shape)
    if len(shape) == 2 and shape[1] == 2:
        x = samples.x[:READ]
        x = x[torch.isfinite(x).all(dim=1)]
        if len(x) == 0:
            return [], ["samples: none is finite"]
        square = Square.around(x)
        panel = Panel(f"accepted samples, n = {len(x):,}", square.density(x))
        return [pictures.densities(path, [panel], square, title)], []
    if 0 not in shape and (len(shape) == 3 or (len(shape) == 4 and shape[1] in (1, 3))):
        return [pictures.grids(path, _best_and_worst(samples, logit), title)], []
    return [], [
        f"samples: x must be (n, 2), (n, H, W), (n, 1, H, W) or (n, 3, H, W) to draw, got {shape}"
    ]


def _best_and_worst(samples: Samples, logit: Tensor | None) -> list[Panel]:
    if logit is None:
        return [Panel("first accepted samples", samples.x[:BEST])]
    order = logit.argsort(descending=True, stable=True)
    best, worst = order[:BEST], order[-BEST:]
    return [
        Panel(
            f"{len(rows)} {name} logits\n{float(logit[rows].min()):.2f} to "
            f"{float(logit[rows].max()):.2f}",
            samples.x[rows],
        )
        for name, rows in (("highest", best), ("lowest", worst))
    ]


def _accepted(samples: Samples) -> Tensor | None:
    """The logits of samples, if there are any."""
    saved = "logit" in samples.columns and len(samples) > 0
    return samples.logit[:READ] if saved else None


def _absence(samples: Samples, column: str) -> str:
    return "there are none yet" if column in samples.columns else f"{column} was not saved"


def _counters(samples: Samples) -> dict[str, int]:
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


def _table(groups: dict[str, Tensor | None]) -> list[str]:
    lines = []
    for name, logit in groups.items():
        finite = None if logit is None else logit[torch.isfinite(logit)].double()
        if finite is not None and len(finite):
            levels = finite.new_tensor(list(QUANTILES.values()))
            numbers = torch.quantile(finite, levels).tolist()
            lines.append(f"    {name:<22}" + "".join(f"{number:>9.3f}" for number in numbers))
    heads = "".join(f"{head:>9}" for head in QUANTILES)
    return [f"  {'logit quantiles':<24}{heads}", *lines] if lines else []
