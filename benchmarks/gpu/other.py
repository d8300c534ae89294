"""Other ops on a device, and the host time of a call."""

import functools
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

import drs_fast as drs
from benchmarks.gpu import problems as gpu_ops
from benchmarks.gpu.clock import Call, Clock
from benchmarks.gpu.problems import Case, Differs, Problem
from benchmarks.speed.ops import EPS

D = 128
BATCH = 4096  # of a ring


def measured(
    clock: Clock,
    n: int,
    attempt: Callable[..., None],
    blank: Callable[..., dict[str, Any]],
) -> dict[str, Any]:
    row = blank(n=n)
    device = clock.device
    logit = torch.randn(n, device=device, generator=torch.Generator(device).manual_seed(1))
    rng = drs.Rng(7, 2**32 - 500)
    threshold: dict[str, Any] = {"log_m": float(logit.max()), "gamma": 1.0, "eps": EPS}
    d = D if n > 1000 else 8
    ops: dict[str, tuple[Call, int]] = {  # with the bytes each must move
        "uniform": (lambda: drs.ops.uniform(rng, n, stream=1, device=device), 8 * n),
        f"normal x {d}": (lambda: drs.ops.normal(rng, n, d, device=device), 4 * n * d),
        "accept": (lambda: drs.ops.accept(logit, rng, **threshold), 5 * n),
        "probability": (lambda: drs.ops.probability(logit, **threshold), 12 * n),
        "largest": (lambda: drs.ops.largest(logit), 4 * n),
        "quantile_gamma": (
            lambda: drs.ops.quantile_gamma(logit, 80.0, log_m=threshold["log_m"], eps=EPS),
            4 * n,
        ),
    }
    for name, (call, moved) in ops.items():
        attempt(row, clock, name, functools.partial(_figures, clock, call, moved, "triton"))
    for name in ("largest", "quantile_gamma"):
        figures = functools.partial(_figures, clock, *ops[name], "cuda")
        attempt(row, clock, f"{name}, CUDA C++", figures)
    batch = min(BATCH, n)
    attempt(
        row, clock, f"accept_append {batch} x {d}", functools.partial(_appending, clock, batch, d)
    )
    p = None
    try:
        p = gpu_ops.problem(device, batch, d, 0.2, torch.float32)
    except RuntimeError as error:
        row["skipped"]["host"] = str(error)
    if p is not None:
        for case in (gpu_ops.OURS, gpu_ops.TWO, gpu_ops.LATENTS, gpu_ops.CUDA, gpu_ops.EAGER):
            attempt(row, clock, f"host: {case.name}", functools.partial(_host, clock, p, case))
    return row


def _figures(clock: Clock, op: Call, moved: int, backend: str, found: dict[str, Any]) -> None:
    expected = _by_reference(op)

    def call() -> Any:
        with drs.backend(backend):
            return op()

    _same(call(), expected)
    found["bytes"] = moved
    found["launch"] = asdict(clock.launch(call))
    replay = clock.capture(call)
    replay().view(-1).view(torch.uint8).fill_(gpu_ops.POISON)
    _same(replay(), expected)
    found["graph"] = asdict(clock.cold(replay))


def _by_reference(call: Call) -> Tensor:
    with drs.backend("reference"):
        return call()


def _same(found: Tensor, expected: Tensor) -> None:
    if not torch.equal(gpu_ops.bits(found), gpu_ops.bits(expected)):
        raise Differs("differs from the reference")


def _appending(clock: Clock, n: int, d: int, found: dict[str, Any]) -> None:
    """Batch after batch into a ring; the first two are checked."""
    generator = torch.Generator(clock.device).manual_seed(2)
    logit = torch.randn(n, device=clock.device, generator=generator)
    rows = torch.randn(n, d, device=clock.device, generator=generator)
    rings = [
        drs.ops.ring(logit, rows, rng=drs.Rng(7), capacity=2**16, log_m=logit.max())
        for _ in range(2)
    ]
    for _ in range(2):
        with drs.backend("reference"):
            drs.ops.accept_append(logit, rows, ring=rings[0], gamma=1.0)
        drs.ops.accept_append(logit, rows, ring=rings[1], gamma=1.0)
    end = int(rings[0].cursor)
    _same(rings[1].state, rings[0].state)
    _same(rings[1].ids[:end], rings[0].ids[:end])
    _same(rings[1].rows[0][:end], rings[0].rows[0][:end])

    def call() -> Any:
        return drs.ops.accept_append(logit, rows, ring=rings[1], gamma=1.0)

    found["launch"] = asdict(clock.launch(call))
    found["host"] = asdict(clock.host(call))
    found["graph"] = asdict(clock.cold(clock.capture(call)))
    found["warm"] = asdict(clock.warm(call, graph=True))


def _host(clock: Clock, p: Problem, case: Case, found: dict[str, Any]) -> None:
    call = case.prepare(p)
    gpu_ops.poison(p)
    gpu_ops.check(case, p, call())
    found["host"] = asdict(clock.host(call))
