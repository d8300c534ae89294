"""What a report says of a squeezed run."""

from drs_fast.core.sampler import Bounded, Described, Recorded
from drs_fast.samplers.common import clipped
from drs_fast.samplers.common.rejection import RejectionSampler
from drs_fast.squeeze import audit
from drs_fast.squeeze import state as states
from drs_fast.squeeze.state import SqueezeState


def described(run: Recorded) -> Described:
    """What the bound loses, as the tallies say, and the rows of the search that it was seen on."""
    state: SqueezeState = run.state
    lines = {**clipped.described(run.tallies), "squeeze": run.remark.partition(": ")[2]}
    if run.tallies["mass"]:
        lines |= _losses(run, state)
    found = RejectionSampler.described(run._replace(state=state.unbounded))._replace(lines=lines)
    if not len(state.checked):
        return found
    logit, bound, chance = state.checked.unbind(dim=1)
    return found._replace(bounded=Bounded(state.looked, logit, bound, chance, state.proposed))


def _losses(run: Recorded, state: SqueezeState) -> dict[str, str]:
    tallies = run.tallies
    evenly = run.proposals * state.numbers.floor * float(state.acceptance)
    hidden = audit.unseen(float(state.samples) + evenly)
    by_kind = {
        f"lost by {kind}": f"{tallies[name] / tallies['mass']:.2%} alone"
        for name, kind in zip(audit.LOW_LOST, ("networks", "precision"), strict=True)
        if name in tallies
    }
    if "low_calls" in tallies:
        by_kind["low precision"] = (
            f"{tallies['low_calls']:,} rows, {tallies['low_infinite']:,} without a finite logit"
        )
    return {
        "lost mass": f"{states.lost(tallies, state)}, 95 % interval",
        "lost where rows seen": f"{audit.loss(tallies)}",
        "lost where none seen": f"at most {hidden:.2%} of the samples",
        "audits": f"{tallies['audited'] / tallies['judged']:.2%} of all rows that are judged",
        **by_kind,
    }
