"""Where an export goes: a file that appears at once, or a folder of files, with _export.json."""

import contextlib
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drs_fast.exporting.engine import Engine
from drs_fast.store import Conflict
from drs_fast.store.folder import Folder, make_directory

FACTS = "_export.json"
LEFT = re.compile(r".*\.\d+\.tmp")


@dataclass(frozen=True, repr=False)
class Exported:
    """What was done. files: of samples in all. there: of these, were there before."""

    path: Path
    rows: int
    files: int
    there: int

    def __repr__(self) -> str:
        files = f"{self.files:,} file{'s'[self.files == 1 :]}"
        there = f", {self.there:,} of which {'was' if self.there == 1 else 'were'} there"
        return f"<Exported {self.rows:,} samples in {files}{there * bool(self.there)}: {self.path}>"


def to_file(engine: Engine, target: Path) -> Exported:
    made, rows = engine.format, engine.source.n
    if target.exists():
        if not target.is_file() or _differing(made.facts_in(target), made.facts):
            raise Conflict(f"{target} holds something else; choose another name, or delete it")
        engine.skip(made.parts(target))
        return Exported(target, rows, 1, 1)
    make_directory(target.parent)
    engine.write(target.parent, made.parts(target))
    return Exported(target, rows, 1, 0)


def to_folder(engine: Engine, target: Path) -> Exported:
    made, rows = engine.format, engine.source.n
    if target.exists() and not target.is_dir():
        raise Conflict(f"{target} is not a directory; choose another name")
    make_directory(target)
    with contextlib.closing(Folder(target)) as folder:
        begun = _begun(target, made.facts)
        parts, last = made.parts(target), made.last()
        if not begun:
            folder.put(FACTS, _written(made.facts, complete=False))
        for parent in {(target / part.name).parent for part in [*parts, *last]}:
            make_directory(parent)
            _clear(parent)
        missing = [part for part in parts if not (target / part.name).exists()]
        engine.skip([part for part in parts if part not in missing])
        engine.write(target, missing)
        for part in last:
            if not (target / part.name).exists():
                engine.write(target, [part])
        folder.put(FACTS, _written(made.facts, complete=True))
    return Exported(target, rows, len(parts), len(parts) - len(missing))


def _begun(target: Path, facts: dict[str, Any]) -> bool:
    """Whether the folder says that it holds this export. Conflict if it holds anything else."""
    path = target / FACTS
    if not path.exists():
        others = sorted(set(os.listdir(target)) - {f"{FACTS}.tmp"})
        if others:
            raise Conflict(
                f"{target} holds other files ({', '.join(others[:3])}) but no {FACTS}; "
                "choose another directory"
            )
        (target / f"{FACTS}.tmp").unlink(missing_ok=True)
        return False
    (target / f"{FACTS}.tmp").unlink(missing_ok=True)
    try:
        before = json.loads(path.read_bytes())
    except ValueError:
        before = None
    if not isinstance(before, dict):
        raise Conflict(f"{path} was not written by drs-fast export; choose another directory")
    before.pop("complete", None)
    if differing := _differing(before, facts):
        lines = "\n".join([f"{target} holds another export:", *differing])
        raise Conflict(f"{lines}\nchoose another directory or repeat the settings")
    return before.get("checked") == facts.get("checked")


def _differing(before: object, facts: dict[str, Any]) -> list[str]:
    """Where an export that is there is another one, in words.

    One whose shards were not compared with their sha256 may go on with one for which they were, and
    is then marked as such; not the other way round.
    """
    now, there = _plain(facts), before if isinstance(before, dict) else {}
    if now.get("checked") is False:
        there = {**there, "checked": False}
    return [
        f"  {key}: there {json.dumps(there.get(key))}, here {json.dumps(now.get(key))}"
        for key in sorted({*there, *now})
        if there.get(key) != now.get(key)
    ]


def _clear(folder: Path) -> None:
    """Removes what an export that was killed was writing."""
    for entry in list(folder.iterdir()):
        if LEFT.fullmatch(entry.name):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def _plain(facts: dict[str, Any]) -> dict[str, Any]:
    """The facts as JSON gives them back."""
    found: dict[str, Any] = json.loads(json.dumps(facts))
    return found


def _written(facts: dict[str, Any], *, complete: bool) -> bytes:
    return (json.dumps({**facts, "complete": complete}, indent=2) + "\n").encode()
