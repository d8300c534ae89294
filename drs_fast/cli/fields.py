"""The flags of a sampler, which are its fields."""

import argparse
import dataclasses
import inspect
import re
import typing
from types import NoneType
from typing import Any

from drs_fast import samplers
from drs_fast.cli.values import count
from drs_fast.core.words import did_you_mean
from drs_fast.run.advice import USUAL
from drs_fast.run.options import Options

ITEM = re.compile(r"([a-z_][a-z0-9_]*(?:, [a-z_][a-z0-9_]*)*): (.*)")


def sampler_of(given: list[str]) -> Any:
    """The sampler named in the arguments. It must be known early: its fields become flags."""
    peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    peek.add_argument("--sampler", type=str.lower, default=USUAL)
    name = peek.parse_known_args(given)[0].sampler
    return samplers.get(name if name in samplers.NAMES else USUAL)


def sampler_name(given: str) -> str:
    """The name of a sampler in lower case."""
    name = given.lower()
    if name not in samplers.NAMES:
        meant = did_you_mean(name, samplers.NAMES)
        raise argparse.ArgumentTypeError(
            f"there is no sampler {given!r}{f'{meant} There' if meant else '; there'} are "
            f"{', '.join(samplers.NAMES)}"
        )
    return name


def of(name: str) -> tuple[str, list[str]]:
    """A sampler's name in Python, and its flags."""
    kind = samplers.get(name)
    return kind.__name__, [flag(field.name) for field in dataclasses.fields(kind)]


def flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def described(kind: Any) -> dict[str, str]:
    """What a class's docstring says of each field: an item, such as `pool: proposals that ...`."""
    found: dict[str, str] = {}
    names: list[str] = []
    for line in inspect.cleandoc(kind.__doc__ or "").split("\n"):
        item = ITEM.match(line)
        if item is not None:
            names = item[1].split(", ")
            found |= dict.fromkeys(names, item[2])
        elif names and line.startswith("    "):
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
        else:
            names = []
    return found


def add_fields(parser: argparse.ArgumentParser, sampler: Any, taken: tuple[str, ...] = ()) -> None:
    """Adds one flag per field of the sampler, with the field's type, but those that are taken."""
    group = parser.add_argument_group(f"fields of {sampler.__name__}")
    hints, explained = typing.get_type_hints(sampler), described(sampler)
    for field in dataclasses.fields(sampler):
        if field.name in taken:
            continue
        kinds = [kind for kind in typing.get_args(hints[field.name]) if kind is not NoneType]
        kind = kinds[0] if kinds else hints[field.name]
        note = "" if field.default in (None, "") else f"(default: {field.default})"
        words = explained.get(field.name, "").replace("`", "").replace("%", "%%")
        how: Any = {"type": count if kind is int else kind}
        if kind is bool:
            how = {"action": argparse.BooleanOptionalAction}
        text = " ".join(filter(None, (words, note)))
        group.add_argument(
            flag(field.name), default=argparse.SUPPRESS, dest=field.name, help=text, **how
        )
    parser.set_defaults(**{field.name: None for field in dataclasses.fields(sampler)})


def add_option(parser: argparse.ArgumentParser, name: str, words: str, **how: Any) -> None:
    """One flag for an option of a run, with its default; a count unless `how` says otherwise."""
    default = getattr(Options, name)
    if isinstance(default, tuple):
        default = ",".join(default)
    note = "" if default in (None, "") else " (default: %(default)s)"
    how = how if "choices" in how else {"type": count, **how}
    parser.add_argument(flag(name), default=default, help=words + note, **how)
