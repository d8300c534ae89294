"""What was asked for: an error says what is wrong with it, and what to do."""

import importlib.util
from pathlib import Path

import torch

from drs_fast.core.arguments import integer, one_of
from drs_fast.core.words import counted
from drs_fast.exporting import pictures
from drs_fast.exporting.format import Format
from drs_fast.exporting.formats import FORMATS
from drs_fast.gan.images import Images
from drs_fast.gan.images import value_range as checked_range
from drs_fast.store import Column, Conflict, Samples


def check_target(kind: type[Format], format: str, target: Path) -> None:
    missing = [name for name in kind.needs if importlib.util.find_spec(name) is None]
    if missing:
        raise RuntimeError(
            f"format {format!r} needs {', '.join(missing)}; run: pip install 'drs_fast[export]'"
        )
    if not kind.folder and target.suffix != kind.suffix:
        raise ValueError(
            f"format {format!r} is one file whose name ends with {kind.suffix!r}, got {target.name}"
        )


def rows(samples: Samples, n: int | None) -> int:
    """How many samples to export."""
    there = len(samples)
    if n is None and not samples.manifest["complete"]:
        raise Conflict(
            f"{samples.path} is unfinished: it holds {there:,} of "
            f"{counted(samples.manifest['n'], 'sample')}; run the command that made it again, or "
            "export the first of them with n= (-n)"
        )
    rows = there if n is None else integer("n", n, 1)
    if not 0 < rows <= there:
        raise ValueError(
            f"{samples.path} holds {counted(there, 'sample')}, got a request for {rows:,}"
        )
    return rows


def columns(
    samples: Samples, kind: type[Format], format: str, save: tuple[str, ...] | None
) -> tuple[str, ...]:
    """The run's columns to export, ids and labels first."""
    given = kind.holds if save is None else save
    for name in given:
        one_of(f"save of format {format!r}", name, kind.holds)
    wanted = set(given) & set(samples.columns) if save is None else set(given)
    if kind.pictures != "never":
        wanted.add("x")
    for name in sorted(wanted - {"weight"}):
        try:
            samples.column(name)
        except AttributeError as error:
            raise ValueError(f"{error}; format {format!r} was to hold it") from None
    if "weight" in wanted:
        samples.weight  # noqa: B018  a ValueError says why there are none
    order = ("ids", "logit", "y", "weight", "x", "z")
    always = {name for name in ("ids", "y") if name in samples.columns}
    return tuple(name for name in order if name in wanted | always)


def shown(x: Column | None, kind: type[Format], format: str) -> bool:
    """Whether the format stores pictures. ValueError if it must, and samples are none."""
    if x is None or kind.pictures == "never":
        return False
    known = x.dtype == torch.uint8 or x.dtype.is_floating_point
    if pictures.channels(x.shape[1:]) and known:
        if kind is not FORMATS["npz"] and importlib.util.find_spec("PIL") is None:
            raise RuntimeError("PNG files need Pillow; run: pip install 'drs_fast[export]'")
        return True
    if kind.pictures == "always":
        raise ValueError(
            f"format {format!r} needs images, which are (height, width) or (1 or 3, height, width) "
            "of uint8 or floating-point numbers; samples of this run are "
            f"{tuple(x.shape[1:])} {x.dtype}; parquet, npy, webdataset and hf hold such samples"
        )
    return False


def images(
    x: Column | None, shown: bool, images: str | None, value_range: tuple[float, float] | None
) -> Images | None:
    """How x becomes uint8; None if it stays what it is."""
    if images is not None:
        one_of("images", images, ("uint8",))
        if x is None:
            raise ValueError("images='uint8' needs x, which is not exported")
    if x is not None and x.dtype.is_floating_point and (shown or images is not None):
        return Images("uint8", *checked_range((-1.0, 1.0) if value_range is None else value_range))
    if images is not None and x is not None and x.dtype != torch.uint8:
        raise ValueError(f"images='uint8' needs x of floating-point numbers, got {x.dtype}")
    if value_range is not None:
        stays = "is not exported" if x is None else f"is {x.dtype} and stays so"
        raise ValueError(f"value_range is for x that becomes uint8; here x {stays}")
    return None
