"""Real samples from a folder of pictures."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from drs_fast.core.arguments import told
from drs_fast.gan.real_data import Unusable

ENDS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
GRAY = ("L", "1")
DEEP = ("I", "F")  # how modes of more than 8 bits begin


class Pictures:
    """n -> the first n pictures of a folder, (n, channels, height, width) float32.

    The darkest value, 0, becomes the low end of `value_range`, and 255 the high end. Subfolders
    take turns; with labels they are the classes, in the sorted order of their names. If the first
    picture is grey, all must be, and have one channel; otherwise all have three.
    """

    def __init__(self, folder: Path, labels: int | None, value_range: tuple[float, float]) -> None:
        self.folder, self._range = folder, value_range
        if not os.path.isdir(folder):  # which raises nothing
            what = "is a file" if os.path.isfile(folder) else "is not there"
            raise ValueError(
                f"real={str(folder)!r} must be a folder of pictures, but it {what}; give what a "
                "file holds as a tensor or an array"
            )
        self._files, self._classes = _files(folder, labels)
        self._levels: Tensor | None = None

    def __call__(self, n: int) -> Any:
        n = min(n, len(self._files))
        if self._levels is None or len(self._levels) < n:
            self._levels = self._read(n)
        low, high = self._range
        x = self._levels[:n].float() * ((high - low) / 255.0) + low
        if self._classes is None:
            return x
        return x, torch.tensor(self._classes[:n], dtype=torch.int64, device="cpu")

    def check(self, made: Tensor) -> None:
        """Unusable unless the pictures have the shape of G's samples (n, ...)."""
        assert self._levels is not None
        shape, wanted = tuple(self._levels.shape[1:]), tuple(made.shape[1:])
        if shape == wanted:
            return
        remedy = "give samples as the discriminator sees them, as a tensor"
        if len(wanted) == 3 and shape[0] != wanted[0]:
            mode = {1: "L", 3: "RGB"}.get(wanted[0])
            remedy = f"convert them, picture.convert({mode!r})" if mode else remedy
        elif len(wanted) == 3:
            remedy = f"resize them, picture.resize(({wanted[2]}, {wanted[1]}))"
        raise Unusable(
            f"pictures of {self.folder} are {shape} (channels, height, width), and G makes "
            f"{wanted}; {remedy}"
        )

    def _read(self, n: int) -> Tensor:
        made: Tensor | None = None
        for i, file in enumerate(self._files[:n]):
            grey = None if made is None else made.shape[1] == 1
            levels = _levels(file, grey)
            if made is None:
                made = levels.new_empty((n, *levels.shape))
            if levels.shape != made.shape[1:]:
                raise Unusable(
                    f"pictures must have one size, got {tuple(levels.shape)} (channels, height, "
                    f"width) in {file}, and {tuple(made.shape[1:])} in {self._files[0]}; crop or "
                    "resize them"
                )
            made[i] = levels
        assert made is not None
        return made


def _levels(file: Path, grey: bool | None) -> Tensor:
    """The picture, (channels, height, width) uint8. grey: whether it must be; None: as it is."""
    try:
        from PIL import Image
    except ImportError:
        raise ValueError(
            "pictures are read with Pillow, which is not there: pip install pillow"
        ) from None
    try:
        with Image.open(file) as picture:
            picture.load()
            mode = picture.mode
            if grey is None:
                grey = mode in GRAY
            if not mode.startswith(DEEP) and not (grey and mode not in GRAY):
                array = np.array(picture.convert("L" if grey else "RGB"))
                return torch.from_numpy(array if array.ndim == 3 else array[:, :, None]).movedim(
                    2, 0
                )
    except Exception as error:  # of any decoder
        raise Unusable(f"{file} cannot be read as a picture: {told(error)}; remove it") from error
    fix = "convert it to 8 bits" if mode.startswith(DEEP) else "convert all to one kind"
    raise Unusable(
        f"{file} has the mode {mode}, where {'grey ' if grey else ''}pictures of 8 bits are "
        f"needed; {fix}, or give the samples as a tensor"
    )


def _files(folder: Path, labels: int | None) -> tuple[list[Path], list[int] | None]:
    """The pictures, with subfolders taking turns, and their classes."""
    inside = sorted(each for each in folder.iterdir() if not each.name.startswith("."))
    folders = [each for each in inside if each.is_dir()]
    groups = [sorted(_pictures(each.rglob("*"))) for each in folders]
    if labels is None:
        groups.insert(0, list(_pictures(inside)))
    elif len(folders) != labels:
        raise ValueError(
            f"real={str(folder)!r} must have a subfolder of pictures for each of labels={labels} "
            f"classes, got {len(folders)}"
        )
    turns = itertools.zip_longest(*groups)
    found = [(file, i) for turn in turns for i, file in enumerate(turn) if file is not None]
    if not found:
        raise ValueError(f"real={str(folder)!r} holds no pictures ({', '.join(ENDS[:4])}, ...)")
    files, classes = zip(*found, strict=True)
    return list(files), None if labels is None else list(classes)


def _pictures(files: Any) -> Iterator[Path]:
    return (file for file in files if file.suffix.lower() in ENDS and file.is_file())
