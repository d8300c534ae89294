"""What a report says of a squeezed run."""

from drs_fast.core.sampler import Bounded, Described, Recorded
from drs_fast.samplers.common import clipped
from drs_fast.squeeze import audit, stages
from drs_fast.squeeze.stages import SqueezeState


def described(run: Recorded) -> Described:
    """What the bound loses, as the tallies say, and the rows of the search that it was seen on."""
    lines = clipped.described(run.tallies)
    if not run.state:
        return Described(lines)
    lines["squeeze"] = run.remark.partition(": ")[2]
    state = SqueezeState(**run.state)
    if run.tallies["mass"]:
        lines |= _losses(run, state)
    if not len(state.checked):
        return Described(lines)
    return Described(lines, Bounded(state.looked, *state.checked.unbind(dim=1)))


def _losses(run: Recorded, state: SqueezeState) -> dict[str, str]:
    tallies = run.tallies
    evenly = run.proposals * stages.floor(state.calls) * float(state.acceptance)
    hidden = audit.unseen(float(state.samples) + evenly)
    return {
        "lost mass": f"{stages.lost(tallies, state)}, 95 % interval",
        "lost where rows seen": f"{audit.loss(tallies)}",
        "lost where none seen": f"at most {hidden:.2%} of the samples",
        "audits": f"{tallies['audited'] / tallies['judged']:.2%} of all rows that are judged",
    }
