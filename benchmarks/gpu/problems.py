"""Problems on a device, our ops and what people write instead, and how each is checked."""

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import drs_fast as drs
from benchmarks.gpu.clock import Call
from benchmarks.gpu.cub import Select
from benchmarks.speed.ops import EPS, Missing
from drs_fast.backends import cuda
from drs_fast.backends import triton as backend
from drs_fast.core.compacted import Compacted

CHECKED = 2**24  # numbers compared at a time
POISON = 0xAA


class Differs(Exception):
    """A result that differs from the reference's; it gets no figure."""


@dataclass(frozen=True)
class Problem:
    """N proposals with their logits, and those that the reference accepts."""

    rows: Tensor  # (N, d)
    logit: Tensor  # (N,) float32
    rng: drs.Rng
    log_m: float
    gamma: float
    keep: Tensor  # (N,) bool
    kept: Tensor  # (count,) int64
    out: Compacted  # space for the accepted rows of any draw
    mean: float  # expected number of accepted rows
    sd: float

    @property
    def arguments(self) -> dict[str, Any]:
        return {"rng": self.rng, "log_m": self.log_m, "gamma": self.gamma, "eps": EPS}

    @property
    def target(self) -> Tensor:
        return self.out.rows[0]


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def problem_bytes(n: int, d: int, acceptance: float, dtype: torch.dtype) -> int:
    """Bytes of the rows, of three times the accepted rows, and of what is kept per row."""
    return int(n * d * dtype.itemsize * (1 + 3 * acceptance) + 100 * n)


def problem(device: torch.device, n: int, d: int, acceptance: float, dtype: torch.dtype) -> Problem:
    """Standard normal logits, and the gamma that accepts this share of them."""
    generator = torch.Generator(device).manual_seed(n + d)
    logit = torch.randn(n, device=device, generator=generator)
    rows = torch.randn(n, d, device=device, dtype=dtype, generator=generator)
    rng, log_m = drs.Rng(5, 2**32 - 500), float(logit.max())
    low, high = -50.0, 50.0
    for _ in range(40):
        gamma = (low + high) / 2
        with drs.backend("reference"):
            p = drs.ops.probability(logit, log_m=log_m, gamma=gamma, eps=EPS)
        low, high = (gamma, high) if float(p.mean()) > acceptance else (low, gamma)
    mean, sd = float(p.sum()), math.sqrt(float((p * (1 - p)).sum()))
    keep = accepted(logit, rng=rng, log_m=log_m, gamma=gamma, eps=EPS)
    capacity = min(n, int(mean + 6 * sd) + 64)
    out = Compacted.empty(logit[:capacity], (rows[:capacity],))
    return Problem(rows, logit, rng, log_m, gamma, keep, keep.nonzero()[:, 0], out, mean, sd)


def accepted(logit: Tensor, **arguments: Any) -> Tensor:
    """Which rows the reference accepts."""
    with drs.backend("reference"):
        return drs.ops.accept(logit, **arguments)


def reference_normal(rng: drs.Rng, ids: Tensor, d: int) -> Tensor:
    with drs.backend("reference"):
        return drs.ops.normal(rng, len(ids), d, device=ids.device, ids=ids)


def ours(p: Problem) -> Call:
    return lambda: drs.ops.accept_compact(p.logit, p.rows, **p.arguments, out=p.out)


def latents(p: Problem) -> Call:
    if p.target.dtype != torch.float32:
        raise Missing("latents are float32")
    d = p.target.shape[1]
    return lambda: drs.ops.accept_latents(p.logit, d, **p.arguments, out=p.out)


@contextmanager
def settings(**values: Any) -> Iterator[None]:
    """Changes constants of the backend within the block."""
    before = {name: getattr(backend, name) for name in values}
    try:
        for name, value in values.items():
            setattr(backend, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(backend, name, value)


def with_settings(prepare: Callable[[Problem], Call], **values: Any) -> Callable[[Problem], Call]:
    def prepared(p: Problem) -> Call:
        call = prepare(p)

        def within() -> Any:
            with settings(**values):
                return call()

        return within

    return prepared


def in_cuda(prepare: Callable[[Problem], Call]) -> Callable[[Problem], Call]:
    """The same call with the CUDA C++ backend."""

    def prepared(p: Problem) -> Call:
        reason = cuda.refuses(p.logit.device)
        if reason is not None:
            raise Missing(reason)
        call = prepare(p)

        def within() -> Any:
            with drs.backend("cuda"):
                return call()

        return within

    return prepared


def _decide(logit: Tensor, log_m: Any, gamma: Any) -> Tensor:
    d = logit - log_m
    f = d - torch.log(1 - torch.exp(d - EPS)) - gamma
    return torch.rand_like(f) < torch.sigmoid(f)


def _keep(p: Problem) -> Tensor:
    return _decide(p.logit, p.log_m, p.gamma)


def eager(p: Problem) -> Call:
    def call() -> tuple[Tensor, Tensor]:
        keep = _keep(p)
        return keep, p.rows[keep]

    return call


def eager_preallocated(p: Problem) -> Call:
    def call() -> tuple[Tensor, Tensor]:
        keep = _keep(p)
        kept = keep.nonzero()[:, 0]
        target = p.target[: len(kept)]
        return keep, torch.index_select(p.rows, 0, kept, out=target)

    return call


def _static(p: Problem, keep: Tensor) -> tuple[Tensor, Tensor]:
    # Its size must be known beforehand; row 0 fills the rest.
    kept = torch.nonzero_static(keep, size=len(p.target), fill_value=0)[:, 0]
    return keep, torch.index_select(p.rows, 0, kept, out=p.target)


def nonzero_static(p: Problem) -> Call:
    return lambda: _static(p, _keep(p))


@functools.cache
def _compiled() -> Callable[..., Tensor]:
    return torch.compile(_decide, dynamic=True)


def compiled(p: Problem) -> Call:
    _on_gpu(p)
    log_m, gamma = (torch.tensor(x, device=p.logit.device) for x in (p.log_m, p.gamma))
    return lambda: _static(p, _compiled()(p.logit, log_m, gamma))


def cub(p: Problem) -> Call:
    _on_gpu(p)
    kept = torch.zeros(len(p.logit), dtype=torch.int64, device=p.logit.device)
    select = Select(_keep(p), kept)
    padded = kept[: len(p.target)]

    def call() -> tuple[Tensor, Tensor]:
        keep = _keep(p)
        select(keep)
        return keep, torch.index_select(p.rows, 0, padded, out=p.target)

    return call


def _on_gpu(p: Problem) -> None:
    if p.logit.device.type != "cuda":
        raise Missing("needs a GPU")


def gather(p: Problem) -> Call:
    target = p.target[: len(p.kept)]
    return lambda: (p.keep, torch.index_select(p.rows, 0, p.kept, out=target))


def copy(p: Problem) -> Call:
    source, target = p.rows[p.kept], p.target[: len(p.kept)]
    return lambda: (p.keep, target.copy_(source))


@dataclass(frozen=True)
class Case:
    name: str
    prepare: Callable[[Problem], Call]  # everything that need not be repeated
    random: bool = False  # draws its own random numbers
    graph: bool = True  # False: it waits for the device, so no graph can hold it
    normals: bool = False  # its rows are the latents


OURS = Case("accept_compact", ours)
TWO = Case("accept_compact, two launches", with_settings(ours, SINGLE_PASS_ROWS=0))
LATENTS = Case("accept_latents", latents, normals=True)
TWO_LATENTS = Case(
    "accept_latents, two launches", with_settings(latents, SINGLE_PASS_ROWS=0), normals=True
)
CUDA = Case("accept_compact, CUDA C++", in_cuda(ours))
CUDA_LATENTS = Case("accept_latents, CUDA C++", in_cuda(latents), normals=True)
EAGER = Case("torch eager", eager, random=True, graph=False)
GATHER = Case("limit: index_select", gather)
CASES = (
    OURS,
    TWO,
    LATENTS,
    TWO_LATENTS,
    CUDA,
    CUDA_LATENTS,
    EAGER,
    Case("torch eager, preallocated", eager_preallocated, random=True, graph=False),
    GATHER,
    Case("limit: copy_", copy),
    # Last, because a failed capture can leave torch's random numbers unusable.
    Case("torch nonzero_static", nonzero_static, random=True),
    Case("CUB DeviceSelect", cub, random=True),
    Case("torch.compile", compiled, random=True),
)


def poison(p: Problem) -> None:
    for tensor in (*p.out.rows, p.out.ids, p.out.logit, p.out.count, p.out.invalid, p.out.above):
        tensor.view(-1).view(torch.uint8).fill_(POISON)


def check(case: Case, p: Problem, result: Any) -> None:
    """Differs unless the result is the reference's or, with own random numbers, a fair sample."""
    if isinstance(result, Compacted):
        _check_compacted(case, p, result)
        return
    keep, rows = result
    kept = keep.nonzero()[:, 0]
    if not case.random and not torch.equal(keep, p.keep):
        raise Differs(f"{case.name}: other rows are accepted")
    if abs(len(kept) - p.mean) > 5 * p.sd:
        raise Differs(f"{case.name}: {len(kept)} accepted, expected {p.mean:.0f} +- {p.sd:.0f}")
    _check_rows(case, rows, kept, lambda part: p.rows[part])


def _check_compacted(case: Case, p: Problem, result: Compacted) -> None:
    count = len(p.kept)
    found = (int(result.count), int(result.invalid), int(result.above))
    if found != (count, 0, 0):
        raise Differs(f"{case.name}: count, invalid, above are {found}, not {(count, 0, 0)}")
    ids = p.kept + p.rng.row
    if not torch.equal(result.ids[:count], ids):
        raise Differs(f"{case.name}: ids differ")
    if not torch.equal(result.logit[:count], p.logit[p.kept]):
        raise Differs(f"{case.name}: logits differ")
    if not bool((result.ids[count:].view(torch.uint8) == POISON).all()):
        raise Differs(f"{case.name}: written past the count")
    d = p.rows.shape[1]
    if case.normals:
        _check_rows(case, result.rows[0], ids, lambda part: reference_normal(p.rng, part, d))
    else:
        _check_rows(case, result.rows[0], p.kept, lambda part: p.rows[part])


def _check_rows(
    case: Case, rows: Tensor, numbers: Tensor, expected: Callable[[Tensor], Tensor]
) -> None:
    step = max(CHECKED // rows.shape[1], 1)
    for start in range(0, len(numbers), step):
        part = numbers[start : start + step]
        same = bits(rows[start : start + len(part)]) == bits(expected(part))
        if not bool(same.all()):
            raise Differs(f"{case.name}: rows differ")


def bits(tensor: Tensor) -> Tensor:
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tensor.contiguous().view(whole[tensor.element_size()])
