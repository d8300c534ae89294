"""What a sampler's state consists of: the dtype and shape of each of its tensors."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_type_hints

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """A dtype, and the shapes a tensor may have.

    A letter stands for a size, the same wherever it appears in a state. K: the GAN's labels.
    """

    dtype: torch.dtype
    shapes: tuple[tuple[int | str, ...], ...] = ((),)

    def __str__(self) -> str:
        shapes = " or ".join(f"({', '.join(map(str, shape))})" for shape in self.shapes)
        return f"{str(self.dtype).removeprefix('torch.')} {shapes}"


Scalar = Annotated[Tensor, Layout(torch.float64)]
OfClasses = Annotated[Tensor, Layout(torch.float64, ((), ("K",)))]  # one for all, or one per class
Proposed = Annotated[Tensor, Layout(torch.float64, ((0,), ("K",)))]
Logits = Annotated[Tensor, Layout(torch.float32, (("n",),))]


def unlike(state: Any, tensors: Mapping[str, Tensor], labels: int | None) -> list[str]:
    """How tensors, by name, differ from a state (a named tuple's class), in words.

    A field without a layout, as custom samplers may have, accepts any tensor.
    """
    missing = sorted({*state._fields} - {*state._field_defaults} - tensors.keys())
    others = sorted(tensors.keys() - {*state._fields})
    problems = [f"{name} is missing" for name in missing]
    problems += [f"{name} is not known" for name in others]
    sizes: dict[int | str, int] = {"K": labels or 0}
    for name, hint in get_type_hints(state, include_extras=True).items():
        for layout in get_args(hint)[1:]:
            if name in tensors and not _fits(layout, tensors[name], sizes):
                dtype, shape = str(tensors[name].dtype), tuple(tensors[name].shape)
                problems.append(
                    f"{name} must be {layout}, got {dtype.removeprefix('torch.')} {shape}"
                )
    return problems


def _fits(layout: Layout, tensor: Tensor, sizes: dict[int | str, int]) -> bool:
    """Whether the tensor has the dtype and one of the shapes; this fixes sizes that were open."""
    if tensor.dtype != layout.dtype:
        return False
    for shape in layout.shapes:
        wanted = [sizes.get(size, size) for size in shape]
        if len(wanted) == tensor.ndim and all(
            isinstance(size, str) or size == found
            for size, found in zip(wanted, tensor.shape, strict=True)
        ):
            sizes.update(zip(shape, tensor.shape, strict=True))
            return True
    return False
