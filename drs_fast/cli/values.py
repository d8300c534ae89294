"""The values of flags, and flags that several commands have."""

import argparse
import ast
import re
from decimal import Decimal
from typing import Any

DEVICE = "cpu or cuda; where the model is if not given"
MODEL = "zoo name, file.py:function, or package.module:function"
RANGE = "--value-range"
GROUPED = re.compile(r"[+-]?\d{1,3}(,\d{3})+")
NEGATIVE = re.compile(r"-[.\d]")
POWER = re.compile(r"[+-]?\d+(\.\d+)?[eE]\+?\d{1,3}")


def count(given: str) -> int:
    """A whole number: 1000000, 1_000_000, 1,000,000 or 1e6."""
    plain = given.replace(",", "") if GROUPED.fullmatch(given) else given
    try:
        if POWER.fullmatch(plain) and (number := Decimal(plain)) == int(number):
            return int(number)
        return int(plain)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"must be a whole number such as 50000, 50_000, 50,000 or 5e4, got {given!r}"
        ) from None


def names(given: str) -> tuple[str, ...]:
    return tuple(filter(None, given.split(",")))


def numbers(given: str) -> list[float]:
    try:
        return [float(number) for number in given.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be numbers such as 3,1,2, got {given!r}") from None


def argument(given: str) -> tuple[str, Any]:
    """A name and its value: what Python makes of the text, or else the text itself."""
    name, equals, text = given.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"must be like width=64, got {given!r}")
    try:
        return name, ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return name, text


def add_model(parser: argparse.ArgumentParser, **how: Any) -> None:
    """The model, and what its function is given."""
    parser.add_argument("model", help=MODEL, **how)
    parser.add_argument(
        "--arg",
        dest="arguments",
        type=argument,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an argument of the model's function, such as path=ckpt.pt; may be repeated",
    )


def spread(given: list[str]) -> list[str]:
    """The arguments as argparse understands them.

    The two numbers of --value-range may be joined by a comma. A value such as -3e1 or -1/2 is
    joined to its flag, because argparse takes it for a flag itself.
    """
    words: list[str] = []
    for word in given:
        before = words[-1] if words else ""
        flag, _, value = word.partition("=")
        if before == RANGE:
            words += word.split(",")
        elif flag == RANGE and value:
            words += [flag, *value.split(",")]
        elif NEGATIVE.match(word) and before.startswith("--") and "=" not in before:
            words[-1] = f"{before}={word}"
        else:
            words.append(word)
    return words
