"""What the value of a key must be: a type for readers of the code, a check for files."""

import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NotRequired, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Kind:
    """What a value must be, in words, and a test for it."""

    words: str
    holds: Callable[[Any], bool]

    @property
    def or_null(self) -> "Kind":
        return Kind(f"{self.words}, or null", lambda value: value is None or self.holds(value))


def _integer(least: int, bits: int) -> Kind:
    return Kind(
        f"an integer in [{least}, 2^{bits})",
        lambda value: type(value) is int and least <= value < 2**bits,
    )


def _list_of(kind: Kind, words: str) -> Kind:
    return Kind(words, lambda value: isinstance(value, list) and all(map(kind.holds, value)))


def _is_number(value: Any) -> bool:
    if type(value) is int:
        return bool(abs(value) < 2**127)  # larger ones may not fit into a float
    return type(value) is float and value == value


COUNT, POSITIVE, AMOUNT = _integer(0, 63), _integer(1, 63), _integer(0, 127)
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
TEXT = Kind("a string", lambda value: isinstance(value, str))
TEXTS = _list_of(TEXT, "a list of strings")
SHA256 = Kind(
    "64 hexadecimal digits",
    lambda value: isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None,
)
NUMBER = Kind("a number", _is_number)
NUMBERS = _list_of(NUMBER, "a list of numbers")
NUMBER_OR_NUMBERS = Kind(
    "a number, or one per class", lambda value: NUMBER.holds(value) or NUMBERS.holds(value)
)
SIZE = Kind("a number >= 0", lambda value: _is_number(value) and value >= 0)
INTERVAL = Kind(
    "two numbers, the lower end first",
    lambda value: NUMBERS.holds(value) and len(value) == 2 and value[0] <= value[1],
)

Count = Annotated[int, COUNT]
Positive = Annotated[int, POSITIVE]
Seed = Annotated[int, _integer(0, 64)]
LastRow = Annotated[int, _integer(-1, 63)]
Flag = Annotated[bool, FLAG]
Text = Annotated[str, TEXT]
Texts = Annotated[list[str], TEXTS]
Sha256 = Annotated[str, SHA256]
Number = Annotated[float, NUMBER]
NumberOrNumbers = Annotated[float | list[float], NUMBER_OR_NUMBERS]
Size = Annotated[float, SIZE]
Interval = Annotated[list[float], INTERVAL]


@functools.cache
def _kinds(described: type) -> dict[str, Kind]:
    hints = get_type_hints(described, include_extras=True)
    plain = {
        key: get_args(hint)[0] if get_origin(hint) is NotRequired else hint
        for key, hint in hints.items()
    }
    return {
        key: next(meta for meta in get_args(hint) if isinstance(meta, Kind))
        for key, hint in plain.items()
    }


def wrong(described: Any, facts: Mapping[str, Any], *, required: bool = True) -> list[str]:
    """What in the facts differs from a TypedDict's description, in words; extra keys are allowed.

    required: whether required keys must be present.
    """
    kinds = _kinds(described)
    missing = described.__required_keys__ - facts.keys() if required else set()
    unfit = [key for key, kind in kinds.items() if key in facts and not kind.holds(facts[key])]
    return [
        *(f"{key} must be {kinds[key].words}, it is missing" for key in sorted(missing)),
        *(line for key in unfit for line in unlike([key], kinds[key], facts)),
    ]


def unlike(keys: Iterable[str], kind: Kind, facts: Mapping[str, Any]) -> list[str]:
    """Which of the keys' values are not of this kind, in words."""
    return [
        f"{key} must be {kind.words}, got {json.dumps(facts.get(key))[:80]}"
        for key in keys
        if not kind.holds(facts.get(key))
    ]
