"""A critic that judges several samples together, asked about one sample among fixed companions.

Given its companions, the log ratio of a group is that of the sample plus a constant, because the
densities of independent samples multiply. So the logits are right up to a constant, which is all
that they need to be.
Source: Lin, Khetan, Fanti and Oh, PacGAN (2018); Karras, Aila, Laine and Lehtinen, Progressive
growing of GANs (2018), section 3, for the minibatch standard deviation.
"""

import contextlib
import copy
import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from drs_fast.core import fingerprint
from drs_fast.core.arguments import integer
from drs_fast.gan import calls
from drs_fast.gan.around import Around
from drs_fast.gan.precision import FP32

MINIBATCH_STD, STD_GROUP = "minibatch-std", 4
# Where the members of a group are: side by side, or as far apart as there are groups; or a call has
# a single group, because nothing else makes them independent.
CONTIGUOUS, STRIDED, ALONE = LAYOUTS = "contiguous", "strided", "alone"
PROBES = 4  # groups in a call that finds the layout
EXACT = 2.0**-18  # of the largest score: kernels that add in any order move it by less
SIZES = (2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 16, 20, 32)  # groups to look for
LIKE = "companions must be samples as it takes them"
LEAST, ENOUGH = 1024, 16  # of classes in any order, so many samples of each have enough of each
Critic = Callable[..., Any]


def size(pack: Any) -> int:
    """The number of samples that are judged together."""
    if isinstance(pack, str):
        if pack == MINIBATCH_STD:
            return STD_GROUP
        raise ValueError(f"pack must be {MINIBATCH_STD!r} or a number of samples, got {pack!r}")
    return integer("pack", pack, 2)


def asked(pack: Any, labels: int | None) -> int:
    """Real samples to ask for, to find companions among them."""
    most = size(pack)
    return most + PROBES if labels is None else max(LEAST, ENOUGH * labels * most)


class Packed(Around):
    """x (n, ...) [, y] -> score (n,) of each sample among fixed companions [of its class].

    discriminator: gives a score to every sample, or one to every group of `pack`.
    x, y: real samples (m, ...) and labels (m,), of which the first pack - 1 become companions; with
        labels, the first pack - 1 of each class.
    Where groups cannot be told apart in a call, every sample takes a call of its own.
    """

    companions: Tensor  # (pack - 1, ...), or (labels, pack - 1, ...)

    def __init__(
        self,
        discriminator: Critic | None,
        pack: int | str,
        x: Tensor,
        y: Tensor | None,
        labels: int | None,
    ) -> None:
        super().__init__()
        self.pack = size(pack)
        if discriminator is None:
            raise ValueError(f"pack={pack!r} needs a discriminator, got None; leave pack out")
        calls.check_callable("discriminator", discriminator)
        self.discriminator: Any = discriminator
        for module in fingerprint.modules(discriminator):
            with contextlib.suppress(NotImplementedError):  # an exported module has only one mode
                module.eval()
        where = _device(discriminator, x)
        x, y = x.to(where), None if y is None else y.to(where)
        self.register_buffer("companions", _chosen(x, y, self.pack, labels))
        self.layout, self.groups = self._found(x, y)

    @property
    def inner(self) -> Callable[..., Any] | None:
        return self.discriminator  # type: ignore[no-any-return]

    def forward(self, x: Tensor, *label: Tensor) -> Tensor:
        n, rows = len(x), self._rows(len(x))
        given = [_padded(each, -n % rows) for each in (x, *label)]
        parts = [
            self._own(*part)
            for part in zip(*(torch.split(each, rows) for each in given), strict=True)
        ]
        return torch.cat(parts)[:n]

    def around(self, function: nn.Module) -> "Packed":
        """The same groups for another function of the discriminator's arguments."""
        other = copy.copy(self)
        other._modules = {"discriminator": function}
        other._buffers = dict(self._buffers)
        return other

    def _rows(self, n: int) -> int:
        """Rows of a part: the discriminator sees at most n samples at once, or n groups."""
        if self.layout == ALONE:
            return 1
        if self.groups:  # which it takes for n samples
            return max(1, n)
        return 1 << (max(1, n // self.pack).bit_length() - 1)

    def _own(self, x: Tensor, *label: Tensor) -> Tensor:
        """What the discriminator returns for the rows of one part."""
        held = self.companions.to(x.dtype)
        among = held[label[0]] if label else held.expand(len(x), *held.shape)
        return judged(self.discriminator, self.layout, x, among, *label)[0]

    @torch.inference_mode()
    def _found(self, x: Tensor, y: Tensor | None) -> tuple[str, bool]:
        """The layout in which rows are independent, and whether a group has a single score."""
        critic = copied(self.discriminator)
        chosen = torch.arange(probes(self.pack), device=x.device) % len(x)
        label = () if y is None else (y[chosen],)
        held = self.companions
        among = held[label[0]] if label else held.expand(len(chosen), *held.shape)
        for layout in (CONTIGUOUS, STRIDED):
            grouped = independent(critic, layout, x[chosen], among, *label)
            if grouped is not None:
                return layout, grouped
        first = tuple(each[:1] for each in (x[chosen], among, *label))
        alone = functools.partial(judged, critic, ALONE)
        return ALONE, calls.result("discriminator", alone, first, LIKE, FP32)[1]


def judged(
    critic: Critic, layout: str, x: Tensor, among: Tensor, *label: Tensor
) -> tuple[Tensor, bool]:
    """What the critic returns for rows x (n, ...) among (n, pack - 1, ...), by row; and whether it
    gave one result to each group.
    """
    n, pack = len(x), among.shape[1] + 1
    groups = torch.cat([x[:, None], among], dim=1)
    labels = [y[:, None].expand(n, pack) for y in label]
    across = layout == STRIDED
    given = [(each.transpose(0, 1) if across else each).flatten(0, 1) for each in (groups, *labels)]
    result = critic(*given)
    result = result[0] if isinstance(result, (tuple, list)) and result else result
    if isinstance(result, Tensor) and result.shape[:1] == (n,):
        return result, True
    if not isinstance(result, Tensor) or result.shape[:1] != (n * pack,):
        # Says what is wrong with it.
        result = calls.one_per_sample("discriminator", result, n * pack, x.device)
    return result[:n] if across else result[::pack], False


def independent(
    critic: Critic, layout: str, x: Tensor, among: Tensor, *label: Tensor
) -> bool | None:
    """Whether a critic has one result for each group; None if a row's depends on other rows."""
    try:
        first, grouped = judged(critic, layout, x, among, *label)
        if first.numel() != len(x):
            return None
        # Larger ones too, because zeros change no maximum.
        for kept, factor in itertools.product((0, len(x) // 2 + 1), (0, -8)):
            others = torch.arange(len(x), device=x.device).view(-1, *[1] * (x.ndim - 1)) != kept
            changed = torch.where(others, factor * x, x).to(x.dtype)
            then = judged(critic, layout, changed, among, *label)[0]
            if moved(first[kept], then[kept], float(first.abs().max())) > EXACT:
                return None
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception:  # its own code may refuse so many rows
        return None
    return grouped


class Group(NamedTuple):
    """Rows that a critic judges together; of a critic that couples none, pairs."""

    size: int
    layout: str
    shared: bool  # whether they have a single score


def group_of(critic: Critic, x: Tensor, *label: Tensor) -> Group | None:
    """The smallest groups that are independent of each other; None if there are none.

    x: some rows that differ.
    """
    critic = copied(critic)
    with torch.inference_mode():
        for pack in SIZES:
            chosen = torch.arange(probes(pack), device=x.device) % len(x)
            rows = [each[chosen] for each in (x, *label)]
            among = torch.stack([rows[0].roll(-k, 0) for k in range(1, pack)], dim=1)
            for layout in (CONTIGUOUS, STRIDED):
                shared = independent(critic, layout, rows[0], among, *rows[1:])
                if shared is not None:
                    return Group(pack, layout, shared)
    return None


def probes(pack: int) -> int:
    """Groups to tell layouts by; it has a divisor in common with `pack`, or they look alike."""
    return pack if pack % 2 else PROBES


def copied(critic: Critic) -> Critic:
    """A copy, because a call may leave something behind; itself where it cannot be copied."""
    try:
        return copy.deepcopy(critic)
    except Exception:  # of any module or object
        return critic


def moved(before: Tensor, after: Tensor, unit: float) -> float:
    """The largest change, in this unit."""
    same = (before == after) | ((before != before) & (after != after))
    change = (before.double() - after.double()).abs() / max(unit, 1e-300)
    return float(torch.where(same, 0.0, change).nan_to_num(nan=torch.inf).max())


@torch.inference_mode(False)
def _chosen(x: Tensor, y: Tensor | None, pack: int, labels: int | None) -> Tensor:
    most = pack - 1
    if y is None or labels is None:
        if len(x) < most:
            raise ValueError(f"pack={pack} needs {most} companions, got {len(x)}; give more")
        return x[:most].clone()
    kept = [x[y == k][:most] for k in range(labels)]
    few = [k for k, rows in enumerate(kept) if len(rows) < most]
    if few:
        raise ValueError(
            f"pack={pack} needs {most} companions of each class, got {len(kept[few[0]])} of class "
            f"{few[0]}; give more, companions=(x, y)"
        )
    return torch.stack(kept)


def _device(critic: Critic, rows: Tensor) -> torch.device:
    """Where the critic's weights are; if it has none, where the rows are."""
    for module in fingerprint.modules(critic):
        for tensor in (*module.parameters(), *module.buffers()):
            return tensor.device
    return rows.device


def _padded(rows: Tensor, more: int) -> Tensor:
    return torch.cat([rows, rows.new_zeros((more, *rows.shape[1:]))]) if more else rows
