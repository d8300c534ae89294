"""What a run on disk says of itself once it is complete."""

from typing import Any

from drs_fast.core.laws import DATA, DATA_OF_ONE, DATA_WITHIN
from drs_fast.gan import classes, where
from drs_fast.run import weighed
from drs_fast.run.schedule import Run
from drs_fast.store import Writer
from drs_fast.store.manifest import totals


def of_run(run: Run, writer: Writer) -> dict[str, Any]:
    """Totals, what the samples follow and are worth, and what the sampler measured."""
    records = list(writer.records.values())
    found = totals(records, writer.facts, writer.n)
    calls = sum(record.counters["calls"] for record in records)
    return {
        **found,
        **({"law": _exact_law(run)} if run.chosen()[0].exact(found) else {}),
        **weighed.worth_of(weighed.open_run(writer.path)),
        "calls_total": calls + run.sampler.found(run.state).spent,
        **run.measured({"calls": calls, **found}),
    }


def _exact_law(run: Run) -> str:
    """What samples follow where the sampler's tallies show that they follow the data."""
    labels = run.gan.labels or 1
    there = classes.occurring(labels, run.gan.label_weights)
    if len(there) == 1 < labels:
        return where.law(run.gan, f"{DATA_OF_ONE}{there[0]}")
    return where.law(run.gan, DATA if run.quota is None else DATA_WITHIN)
