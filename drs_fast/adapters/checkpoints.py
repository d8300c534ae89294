"""The state dict that is wanted among all that a checkpoint holds."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from drs_fast.adapters import files
from drs_fast.core.words import counted, did_you_mean

DEEPEST = 3  # levels of a checkpoint in which state dicts are looked for
WRAPPERS = ("module.", "_orig_mod.")  # of DataParallel and of torch.compile
MOST = 12  # keys of a checkpoint that an error lists


def chosen(found: Any, file: Path, key: str | None, strip: str) -> dict[str, Any]:
    """The state dict under `key` with its names stripped; what the file holds without a key.

    ValueError says what the file holds where it is not that.
    """
    state = found if key is None else _under(found, file, key)
    if key is not None and isinstance(state, nn.Module):
        state = state.state_dict()
    if not isinstance(state, dict):
        where = file if key is None else f"{key!r} of {file}"
        instead = f"; it{held}" if (held := _instead(found, file)) else ""
        raise ValueError(
            f"{where} must hold a state dict, got {files.content(state)}{instead}; samples go to "
            "--real or GAN(real=...)"
        )
    made: dict[str, Any] = stripped(state, file, strip) if strip else state
    if is_state(made):
        _say_prefix(made, file)
    elif hint := _instead(made, file, "" if key is None else f"{key}."):
        sys.stderr.write(f"{file}{hint}\n")
    return made


def is_state(value: object) -> bool:
    """Whether this is a state dict: names, each with a tensor."""
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(name, str) for name in value)
        and all(isinstance(held, Tensor) for held in value.values())
    )


def stripped(state: Mapping[str, Any], file: Path, prefix: str) -> dict[str, Any]:
    """The state dict without this beginning of its names. ValueError if no name has it."""
    if not any(name.startswith(prefix) for name in state):
        names = ", ".join(repr(name) for name in list(state)[:3])
        raise ValueError(
            f"no name in {file} begins with strip={prefix!r}; its names are like {names}"
        )
    made = {name.removeprefix(prefix): value for name, value in state.items()}
    if len(made) < len(state):
        raise ValueError(
            f"without strip={prefix!r}, two names in {file} are the same; give a longer key"
        )
    return made


def _under(found: Any, file: Path, key: str) -> Any:
    """What lies under a key, which may be dotted."""
    if isinstance(found, Mapping) and key in found:
        return found[key]
    value = found
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise ValueError(f"{file} has no key {key!r}{_listed(found, key)}")
        value = value[part]
    return value


def _listed(found: Any, key: str) -> str:
    if not isinstance(found, Mapping):
        return f": it holds {files.content(found)}"
    if is_state(found):
        return f": it holds a state dict of {counted(len(found), 'tensor')}; leave key out"
    keys = [f"  {name!r}: {described(value)}" for name, value in found.items()]
    more = [f"  and {len(keys) - MOST} more"] if len(keys) > MOST else []
    meant = did_you_mean(key, [*map(str, found), *(name for name, _ in states(found))])
    return "\n".join([f"{meant} It holds" if meant else "; it holds", *keys[:MOST], *more])


def described(value: Any) -> str:
    """What a key of a checkpoint holds, in words."""
    if is_state(value):
        return f"a state dict of {counted(len(value), 'tensor')}"
    if isinstance(value, nn.Module):
        return f"a module, {type(value).__name__}"
    return files.content(value)


def states(found: Any, above: str = "", depth: int = DEEPEST) -> Iterator[tuple[str, Any]]:
    """The state dicts and modules in a checkpoint, by their dotted keys."""
    if not isinstance(found, Mapping) or depth == 0:
        return
    for name, value in found.items():
        if is_state(value) or isinstance(value, nn.Module):
            yield f"{above}{name}", value
        else:
            yield from states(value, f"{above}{name}.", depth - 1)


def _instead(found: Any, file: Path, above: str = "") -> str:
    """Which keys hold state dicts, and the line that takes one; empty if none does."""
    there = list(states(found, above))
    if not there:
        return ""
    named = ", ".join(f"{name!r} ({described(value)})" for name, value in there[:MOST])
    return (
        f" holds state dicts under {named}; to take one: "
        f"drs.weights({file.name!r}, key={there[0][0]!r})"
    )


def _say_prefix(state: Mapping[str, Any], file: Path) -> None:
    """A line where all names begin as a wrapper makes them, which `load_state_dict` refuses."""
    for prefix in WRAPPERS:
        if all(name.startswith(prefix) for name in state):
            sys.stderr.write(
                f"all names in {file} begin with {prefix!r}; if load_state_dict does not know "
                f"them: drs.weights({file.name!r}, ..., strip={prefix!r})\n"
            )
