"""An order of a run's samples that is random, and yet touches few shards at a time."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Sampler

from drs_fast import ops
from drs_fast.core import BURN_IN_ROW, SHUFFLE, Rng
from drs_fast.core.arguments import integer
from drs_fast.run.streams import process
from drs_fast.store import Samples
from drs_fast.store.samples import OPEN_SHARDS


class ShardShuffle(Sampler[int]):
    """Shuffles the shards of a run, then the samples within every `window` shards of that order.

    For DataLoader(samples, sampler=ShardShuffle(samples)): where a run has more shards than stay
    open, shuffle=True opens one anew for nearly every sample. A run of at most `window` shards is
    shuffled as a whole. Every epoch has an order of its own, which `set_epoch` names.
    rank, ranks: as in `StreamDataset`. Ranks take turns at the samples of the order, so no sample
    is read twice; all ranks have the same number, and fewer than `ranks` samples are left out.
    """

    def __init__(
        self,
        samples: Samples,
        *,
        seed: int = 0,
        window: int = OPEN_SHARDS // 2,
        rank: int | None = None,
        ranks: int | None = None,
    ) -> None:
        self._samples, self._rng = samples, Rng(seed)
        self._window = integer("window", window, 1)
        self._rank, self._ranks = process(rank, ranks)
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Says which epoch the next iteration is; without, all have the same order."""
        self._epoch = integer("epoch", epoch, 0, 2**32)

    def __len__(self) -> int:
        return len(self._samples) // self._ranks

    def __iter__(self) -> Iterator[int]:
        counts = torch.tensor(self._samples.counts, dtype=torch.int64, device="cpu")
        begins, left = counts.cumsum(0) - counts, len(self) * self._ranks
        place = 0
        for some in torch.split(self._order(len(counts), BURN_IN_ROW), self._window):
            shards = [torch.arange(int(counts[k]), device="cpu") + begins[k] for k in some]
            rows = torch.cat([counts[:0], *shards])
            rows = rows[self._order(len(rows), place)][: left - place]
            yield from rows[(self._rank - place) % self._ranks :: self._ranks].tolist()
            place += len(rows)

    def _order(self, n: int, row: int) -> Tensor:
        """A random order of n things, which have the rows from `row` on."""
        rng = self._rng.at(row)
        return ops.uniform(rng, n, stream=SHUFFLE, draw=self._epoch).argsort(stable=True)
