"""The flags of a sampler, which are its fields."""

import argparse
import dataclasses
import typing
from types import NoneType
from typing import Any

from drs_fast import samplers
from drs_fast.run.advice import USUAL


def sampler_of(given: list[str]) -> Any:
    """The sampler named in the arguments. It must be known early: its fields become flags."""
    peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    peek.add_argument("--sampler", type=str.lower, default=USUAL)
    name = peek.parse_known_args(given)[0].sampler
    return samplers.get(name if name in samplers.NAMES else USUAL)


def without(sampler: Any, flags: list[str]) -> str:
    """That the sampler has no such fields, and which it has."""
    own = (flag(field.name) for field in dataclasses.fields(sampler))
    return f"{sampler.__name__} has no {', '.join(flags)}: its fields are {', '.join(own)}"


def flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def add_fields(parser: argparse.ArgumentParser, sampler: Any, taken: tuple[str, ...] = ()) -> None:
    """Adds one flag per field of the sampler, with the field's type, but those that are taken."""
    group = parser.add_argument_group(f"fields of {sampler.__name__}")
    hints = typing.get_type_hints(sampler)
    for field in dataclasses.fields(sampler):
        if field.name in taken:
            continue
        kinds = [kind for kind in typing.get_args(hints[field.name]) if kind is not NoneType]
        kind = kinds[0] if kinds else hints[field.name]
        note = "" if field.default is None else f"default: {field.default}"
        how: Any = {"action": argparse.BooleanOptionalAction} if kind is bool else {"type": kind}
        group.add_argument(
            flag(field.name), default=argparse.SUPPRESS, dest=field.name, help=note, **how
        )
    parser.set_defaults(**{field.name: None for field in dataclasses.fields(sampler)})
