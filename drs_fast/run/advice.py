"""What to type for a run: its sampler and its options, without what is so by default."""

import dataclasses
from collections.abc import Mapping

from drs_fast.core import Sampler
from drs_fast.core.sampler import EQUAL
from drs_fast.run.options import Options
from drs_fast.squeeze import Squeeze

USUAL = "drs"  # the sampler of the command line
SAMPLERS = "drs_fast.samplers."  # whose names are in drs.samplers
MODEL, NUMBER = "MODEL", "N"  # for the reader to fill in


def calls(
    model: str, sampler: Sampler | None, n: int | None, named: Mapping[str, object], *, save: bool
) -> tuple[str, str]:
    """The line for a shell, and the one for Python.

    named: options by name. save: whether the run on disk is to keep the weights.
    """
    number = NUMBER if n is None else str(n)
    words = ["drs-fast generate", model, "-n", number, "--out run"]
    given = ["gan", "sampler" if sampler is None else written(sampler, "drs."), number]
    if sampler is not None:
        words += flags(sampler) if save else own_flags(sampler)
    for key, value in named.items():
        if value != vars(Options)[key]:
            shown = ",".join(map(str, value)) if isinstance(value, tuple) else value
            words.append(f"--{key.replace('_', '-')} {shown}")
            given.append(f"{key}={value!r}")
    return " ".join(words), f"drs.generate({', '.join(given)})"


def changed(sampler: Sampler) -> dict[str, object]:
    """The fields that are not what they are by default."""
    usual = Squeeze(sampler.sampler) if isinstance(sampler, Squeeze) else type(sampler)()
    fields = dataclasses.fields(sampler)
    given = {field.name: vars(sampler)[field.name] for field in fields}
    return {key: value for key, value in given.items() if value != vars(usual)[key]}


def _fields(sampler: Sampler) -> list[str]:
    return [f"{key}={value!r}" for key, value in changed(sampler).items()]


def name(sampler: Sampler) -> str:
    """The sampler in a table, where one that is squeezed follows the one that is not."""
    if isinstance(sampler, Squeeze):
        return ", ".join(["  squeezed", *_fields(sampler)])
    return written(sampler)


def written(sampler: Sampler, package: str = "") -> str:
    """The sampler as Python has it. package: "drs." if names are to be found from there."""
    inner = [written(sampler.sampler, package)] if isinstance(sampler, Squeeze) else []
    if package and type(sampler).__module__.startswith(SAMPLERS):
        package += "samplers."
    return f"{package}{type(sampler).__name__}({', '.join([*inner, *_fields(sampler)])})"


def flags(sampler: Sampler) -> list[str]:
    """What `generate` takes, with the weights that the worth of the samples rests on."""
    save = ["--save", ",".join((*Options.save, "weight"))]
    return own_flags(sampler) + (save if weighted(sampler) else [])


def own_flags(sampler: Sampler) -> list[str]:
    """The sampler and its fields on the command line."""
    given = {True: "yes", False: "no"}
    fields = [
        f"--{key.replace('_', '-')} {given[value] if isinstance(value, bool) else value}"
        for key, value in changed(sampler).items()
    ]
    if isinstance(sampler, Squeeze):
        return [*own_flags(sampler.sampler), "--squeeze", *fields]
    name = type(sampler).__name__.lower()
    return fields if name == USUAL else [f"--sampler {name}", *fields]


def weighted(sampler: Sampler) -> bool:
    """Whether its samples have weights that differ, or none."""
    return sampler.weighs != EQUAL
