"""What a TorchScript archive is made of, for `drs_fast.core.fingerprint`."""

import io
import pickle
import re
import zipfile
from collections.abc import Iterator
from typing import Any

MANGLED = re.compile(r"[./]?___torch_mangle_\d+")  # a serial number of a class


def pieces(script: Any) -> Iterator[bytes]:
    """Code, constants, attributes and weights of a saved archive, equal for equal models.

    Zip headers, versions, lines of source code and the inputs of a trace are left out.
    """
    with zipfile.ZipFile(io.BytesIO(script.save_to_buffer())) as archive:
        members = {name.partition("/")[2]: name for name in sorted(archive.namelist())}
        code = "\n".join(
            MANGLED.sub("", archive.read(name).decode())
            for short, name in members.items()
            if short.startswith("code/") and short.endswith(".py")
        )
        # Their order depends on what was compiled before, and the order of constants on a set.
        yield from sorted(_sorted_head(block) for block in re.split(r"\n(?=class )", code))
        for short, name in members.items():
            if short in ("data.pkl", "constants.pkl"):
                made = _Recorder(io.BytesIO(archive.read(name))).load()
                yield f"{short} {made!r}".encode()
            elif short.startswith(("data/", "constants/")):
                yield short.encode()
                yield archive.read(name)


def _sorted_head(block: str) -> bytes:
    """A class's code with its attributes sorted."""
    head, define, methods = block.strip().partition("\n  def ")
    return "\n".join([*sorted(head.splitlines()), define, methods]).encode()


class _Recorder(pickle.Unpickler):
    """Reads a pickle as a record of names and plain values; none of the pickle's code is run.

    Its bytes cannot be compared: how often something is written depends on who refers to a tensor.
    """

    def find_class(self, module: str, name: str) -> type:
        return type(MANGLED.sub("", f"{module}.{name}"), (_Recorded,), {})

    def persistent_load(self, saved: tuple[Any, ...]) -> str:
        _, storage, key, _device, size = saved
        return f"{storage.__name__} {key} {size}"


class _Recorded:
    made: list[Any]

    def __new__(cls, *arguments: Any) -> "_Recorded":
        recorded = object.__new__(cls)
        recorded.made = [*arguments]
        return recorded

    def __setstate__(self, state: Any) -> None:
        self.made.append(state)

    def __repr__(self) -> str:
        return f"{type(self).__name__}{self.made}"
