"""What a run did, in words, pictures, and a page of both."""

import os
from os import PathLike
from pathlib import Path
from typing import NamedTuple

from drs_fast.core.sampler import Described
from drs_fast.gan import GAN
from drs_fast.report import balance, draw, facts, page, proposals, style
from drs_fast.report.balance import Balance
from drs_fast.report.facts import described, heading, scores, state_of
from drs_fast.store import Samples, open_run

__all__ = ["Written", "described", "heading", "scores", "state_of", "words", "write"]


class Written(NamedTuple):
    """What a report consists of."""

    text: str
    pictures: list[Path]
    page: Path  # all of it in one HTML file


def write(
    path: str | PathLike[str], out: str | PathLike[str] | None = None, gan: GAN | None = None
) -> Written:
    """Writes a run's report and its pictures to `out`, by default beside the run in PATH-report.

    gan: the GAN that made the run, for pictures of what was rejected; one of the zoo is known.
    The run itself, finished or not, is not changed. What cannot be drawn is left out, and
    the text says so. RuntimeError without matplotlib, ValueError if `out` is within the run,
    Conflict if another GAN made it.
    """
    style.check()
    run = Path(os.path.abspath(path))
    folder = run.with_name(f"{run.name}-report") if out is None else Path(out)
    if run.resolve() in (folder.resolve(), *folder.resolve().parents):
        raise ValueError(f"out must be outside the run, got {folder}; choose another --out")
    samples = open_run(path)
    made_by = proposals.model_of(samples, gan)
    folder.mkdir(parents=True, exist_ok=True)
    said = described(samples, state_of(samples))
    balanced = balance.of_run(samples, said)
    drawn, reasons = draw.everything(samples, said, balanced, folder, made_by)
    known, quantiles = facts.of_run(samples, said, balanced), facts.quantiles(samples, said)
    if "model" in known:
        known["model"] = facts.named(samples.manifest, made_by)
    told = page.Told(samples, known, facts.warnings(samples, known), quantiles, reasons)
    text = _text(samples, known, quantiles)
    if reasons:
        text += "\nnot drawn" + "".join(f"\n  {reason}" for reason in reasons)
    if made_by is None and said.thresholds is not None:
        text += "\n--model MODEL also shows what was rejected"
    written = page.write(folder / "report.html", told, drawn)
    return Written(text, [picture.path for picture in drawn], written)


def words(samples: Samples, said: Described, balanced: Balance | str) -> str:
    """The numbers of a run, one a line."""
    return _text(samples, facts.of_run(samples, said, balanced), facts.quantiles(samples, said))


def _text(samples: Samples, known: dict[str, str], quantiles: dict[str, list[float]]) -> str:
    lines = [f"{samples.path}", *(f"  {name:<24}{value}" for name, value in known.items())]
    if quantiles:
        heads = "".join(f"{head:>9}" for head in facts.QUANTILES)
        lines.append(f"  {'logit quantiles':<24}{heads}")
    for name, numbers in quantiles.items():
        lines.append(f"    {name:<22}" + "".join(f"{number:>9.3f}" for number in numbers))
    if len(samples) > facts.READ:
        lines.append(f"  quantiles, classes and pictures use the first {facts.READ:,} samples")
    return "\n".join(lines)
