"""What burn-in let one expect of a run, and what came."""

from torch import Tensor

from drs_fast import ops
from drs_fast.core.sampler import LOGIT, Thresholds
from drs_fast.samplers.common.effective import TRUSTED
from drs_fast.samplers.common.weights import Weighing
from drs_fast.store.manifest import Manifest

MANY = 1_000  # from here on effective samples are shown as whole numbers


def calls(manifest: Manifest, calls: int, n: int, squeezed: bool) -> str | None:
    """Calls of G and D per sample."""
    if not n:
        return None
    said, acceptance = f"{calls / n:.4g}", manifest.get("acceptance")
    if not acceptance:
        return said
    return f"{said} ({1.0 / acceptance:.4g} expected in burn-in{', without a bound' * squeezed})"


def worth(
    manifest: Manifest, n: int, thresholds: Thresholds | None, raw: Tensor | None
) -> dict[str, str]:
    """What the samples are worth if they are weighted, and whether that can be trusted."""
    size = manifest.get("effective_samples")
    if size is None or not n:
        return {}
    expected = None
    if thresholds is not None and raw is not None and not thresholds.log_m.ndim:
        expected = _share(thresholds, raw)
    tail = manifest.get("tail_index")
    most = "at most " if tail is not None and tail > TRUSTED else ""
    shown = f"{size:,.0f}" if size >= MANY else f"{size:.4g}"
    came = f"{shown} when weighted, {size / n:.2%} of the samples"
    largest, above = manifest.get("largest_weight", 0.0), manifest.get("above_weight", 0.0)
    lines = {
        "effective samples": came
        + ("" if expected is None else f" ({most}{expected:.2%} expected in burn-in)"),
        "largest weight": f"{largest:.2%} of all weight; {above:.2%} is above log_m",
    }
    if tail is not None:
        trusted = (
            f"good, because it is at most {TRUSTED:g}"
            if tail <= TRUSTED
            else f"above {TRUSTED:g}: larger weights will come, so the effective size is not to be "
            "trusted; calibrate the discriminator"
        )
        lines["tail index"] = f"{tail:.2f}, {trusted}"
    return lines


def _share(thresholds: Thresholds, logit: Tensor) -> float | None:
    """The effective share of samples whose proposals have these logits."""
    weighing, rows = Weighing(LOGIT, thresholds=thresholds), {"logit": logit}
    chance = ops.probability(logit, **thresholds.of_rows(None))
    weight = weighing.relative(rows, weighing.beyond(rows))
    kept = chance > 0.0
    if not bool(kept.any()):
        return None
    chance, weight = chance[kept], weight[kept] / weight[kept].max()  # whose square may overflow
    total = float((chance * weight).sum())
    if not total:
        return None
    return total * (total / float((chance * weight.square()).sum())) / float(chance.sum())
