"""Real samples from a dataset, a loader, a list, or a folder of pictures: the first n of them."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
)

from drs_fast.core.arguments import describe
from drs_fast.gan.pictures import Pictures
from drs_fast.gan.real_data import Unusable

OF_ALL = (SequentialSampler, RandomSampler, DistributedSampler)  # they take the whole dataset
Real = Tensor | tuple[Tensor, Tensor]


class Read:
    """n -> the first n samples that `items` yields, with their labels if they have some.

    items: begins anew at every call; items are samples, or tuples that start with one and a label.
    finish: makes the samples of what was read, which is kept.
    """

    def __init__(
        self,
        items: Callable[[], Iterator[Any]],
        labels: int | None,
        finish: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self._items, self._labelled, self._finish = items, labels is not None, finish
        self._there: tuple[Tensor, Tensor | None] | None = None
        self._asked = 0

    def __call__(self, n: int) -> Real:
        if self._there is None or (n > self._asked and len(self._there[0]) == self._asked):
            self._there, self._asked = self._first(n), n
        x, y = self._there
        x = x[:n] if self._finish is None else self._finish(x[:n])
        return x if y is None else (x, y[:n])

    def _first(self, n: int) -> tuple[Tensor, Tensor | None]:
        rows: list[Tensor] = []
        labels: list[int] = []
        for i, item in enumerate(itertools.islice(self._items(), n)):
            x, *label = item if isinstance(item, (tuple, list)) and item else (item,)
            rows.append(_tensor(x, i))
            if rows[0].shape != rows[i].shape or rows[0].dtype != rows[i].dtype:
                raise Unusable(
                    f"real samples must have one shape and dtype, got {describe(rows[i])} as "
                    f"number {i}, and before that {describe(rows[0])}; crop or resize them"
                )
            if self._labelled and label:
                labels.append(_label(label[0], i))
        if not rows:
            raise Unusable("real must give samples, got none; give the dataset some")
        y = torch.tensor(labels, device="cpu") if len(labels) == len(rows) else None
        return torch.stack(rows), y


def source(given: Any, labels: int | None, value_range: tuple[float, float]) -> Any:
    """Real samples as a tensor, a pair, or a function of n; what else was given as it is."""
    if isinstance(given, (str, Path)):
        return Pictures(Path(given), labels, value_range)
    if isinstance(given, DataLoader):
        _check_order(given)
        return Read(lambda: _loaded(given), labels)
    if isinstance(given, (Dataset, list)):
        return Read(lambda: _each(given), labels)
    return given


def _each(given: Any) -> Iterator[Any]:
    if isinstance(given, IterableDataset):
        return iter(given)
    return (given[i] for i in range(len(given)))


def _check_order(loader: DataLoader[Any]) -> None:
    """ValueError unless the loader takes the whole dataset, in whatever order."""
    if isinstance(loader.dataset, IterableDataset) or loader.batch_size is None:
        return
    if type(loader.batch_sampler) is BatchSampler and isinstance(loader.sampler, OF_ALL):
        return
    which = type(
        loader.sampler if type(loader.batch_sampler) is BatchSampler else loader.batch_sampler
    ).__name__
    raise ValueError(
        "real=a DataLoader takes its dataset in the dataset's own order, got one that chooses by "
        f"{which}; give the samples that you mean: real=torch.utils.data.Subset(dataset, indices)"
    )


def _loaded(loader: DataLoader[Any]) -> Iterator[Any]:
    """The samples of the loader's batches, in the order of its dataset."""
    items = _each(loader.dataset)
    batches: Iterable[Any] = items
    if loader.batch_size is not None:
        batches = iter(lambda: list(itertools.islice(items, loader.batch_size)), [])
    for batch in batches:
        found = loader.collate_fn(batch)
        if isinstance(found, (tuple, list)) and len(found) > 1:
            yield from zip(found[0], found[1], strict=False)
        else:
            yield from found[0] if isinstance(found, (tuple, list)) else found


def _tensor(x: Any, i: int) -> Tensor:
    if isinstance(x, np.ndarray):
        x = np.array(x)  # a copy, because the next item may be written to the same memory
    if not isinstance(x, (Tensor, np.ndarray)):
        raise Unusable(
            f"real samples must be tensors or arrays, got {describe(x)} as number {i}; give the "
            "dataset a transform that makes tensors, such as torchvision.transforms.ToTensor()"
        )
    return torch.as_tensor(x).detach()


def _label(y: Any, i: int) -> int:
    value = y.item() if isinstance(y, (Tensor, np.ndarray, np.generic)) and y.size else y
    if isinstance(value, bool) or not isinstance(value, int):
        raise Unusable(f"labels of real samples must be integers, got {describe(y)} as number {i}")
    return value
