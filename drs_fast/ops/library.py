"""The ops as operators of torch.library, which is how torch.compile and torch.export see them.

The public functions call these only while a graph is traced. `seed` is the Rng's as a signed
integer. Operators with `out` or `ring` write into those tensors and return nothing.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from drs_fast.core import Rng
from drs_fast.core.compacted import Compacted, Ring
from drs_fast.ops import decide, draw, groups, order

_library: Any = torch.library.Library("drs_fast", "DEF")  # type: ignore[no-untyped-call]

ROWS = "SymInt seed, SymInt row, Tensor? ids"
COUNTER = "SymInt stream, SymInt draw, Device device"
THRESHOLD = "Tensor log_m, Tensor gamma, float eps"


# Compacting keeps a workspace between calls, which PyTorch's own CUDA graphs cannot see.
KEEPS = (torch.Tag.cudagraph_unsafe,)


def _define(
    name: str,
    schema: str,
    run: Callable[..., Any],
    fake: Callable[..., Any],
    tags: tuple[torch.Tag, ...] = (),
) -> None:
    _library.define(name + schema, tags=tags)
    _library.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"drs_fast::{name}", fake, lib=_library)


def _rng(seed: int, row: int) -> Rng:
    return Rng(seed % 2**64, row)


def _nothing(*arguments: Any) -> None:
    return None


def _uniform(
    seed: int, row: int, ids: Tensor | None, n: int, stream: int, number: int, device: torch.device
) -> Tensor:
    return draw.uniform(_rng(seed, row), n, stream=stream, draw=number, device=device, ids=ids)


_define(
    "uniform",
    f"({ROWS}, SymInt n, {COUNTER}) -> Tensor",
    _uniform,
    lambda seed, row, ids, n, stream, number, device: torch.empty(
        n, dtype=torch.float64, device=device
    ),
)


def _elements(
    op: Callable[..., Tensor], dtype: torch.dtype
) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    def run(
        seed: int,
        row: int,
        ids: Tensor | None,
        n: int,
        d: int,
        stream: int,
        number: int,
        device: torch.device,
    ) -> Tensor:
        return op(_rng(seed, row), n, d, stream=stream, draw=number, device=device, ids=ids)

    def fake(*arguments: Any) -> Tensor:
        return torch.empty(arguments[3:5], dtype=dtype, device=arguments[-1])

    return run, fake


for _name, _op, _dtype in (
    ("words", draw.words, torch.int64),
    ("normal", draw.normal, torch.float32),
):
    _define(_name, f"({ROWS}, SymInt n, SymInt d, {COUNTER}) -> Tensor", *_elements(_op, _dtype))


def _probability(logit: Tensor, log_m: Tensor, gamma: Tensor, eps: float) -> Tensor:
    return decide.probability(logit, log_m=log_m, gamma=gamma, eps=eps)


_define(
    "probability",
    f"(Tensor logit, {THRESHOLD}) -> Tensor",
    _probability,
    lambda logit, *threshold: torch.empty_like(logit, dtype=torch.float64),
)


def _accept(
    logit: Tensor,
    seed: int,
    row: int,
    ids: Tensor | None,
    log_m: Tensor,
    gamma: Tensor,
    eps: float,
) -> Tensor:
    return decide.accept(logit, _rng(seed, row), log_m=log_m, gamma=gamma, eps=eps, ids=ids)


_define(
    "accept",
    f"(Tensor logit, {ROWS}, {THRESHOLD}) -> Tensor",
    _accept,
    lambda logit, *others: torch.empty_like(logit, dtype=torch.bool),
)


def _accept_compact(
    logit: Tensor,
    rows: list[Tensor],
    seed: int,
    row: int,
    ids: Tensor | None,
    log_m: Tensor,
    gamma: Tensor,
    eps: float,
    out: list[Tensor],
) -> None:
    decide.accept_compact(
        logit, *rows, rng=_rng(seed, row), log_m=log_m, gamma=gamma, eps=eps, ids=ids,
        out=Compacted(tuple(out[:-5]), *out[-5:]),
    )  # fmt: skip


_define(
    "accept_compact",
    f"(Tensor logit, Tensor[] rows, {ROWS}, {THRESHOLD}, Tensor(a!)[] out) -> ()",
    _accept_compact,
    _nothing,
    KEEPS,
)


def _accept_latents(
    logit: Tensor,
    d: int,
    seed: int,
    row: int,
    ids: Tensor | None,
    log_m: Tensor,
    gamma: Tensor,
    eps: float,
    out: list[Tensor],
) -> None:
    decide.accept_latents(
        logit, d, rng=_rng(seed, row), log_m=log_m, gamma=gamma, eps=eps, ids=ids,
        out=Compacted(tuple(out[:-5]), *out[-5:]),
    )  # fmt: skip


_define(
    "accept_latents",
    f"(Tensor logit, SymInt d, {ROWS}, {THRESHOLD}, Tensor(a!)[] out) -> ()",
    _accept_latents,
    _nothing,
    KEEPS,
)


def _accept_append(
    logit: Tensor,
    rows: list[Tensor],
    seed: int,
    batch: int,
    ids: Tensor | None,
    log_m: Tensor | None,
    gamma: Tensor,
    eps: float,
    ring: list[Tensor],
) -> None:
    *kept, numbers, logits, state, workspace = ring
    made = Ring(seed % 2**64, tuple(kept), numbers, logits, state, workspace, batch)
    decide.accept_append(logit, *rows, ring=made, log_m=log_m, gamma=gamma, eps=eps, ids=ids)


_define(
    "accept_append",
    "(Tensor logit, Tensor[] rows, SymInt seed, SymInt batch, Tensor? ids, Tensor? log_m,"
    " Tensor gamma, float eps, Tensor(a!)[] ring) -> ()",
    _accept_append,
    _nothing,
)

_define(
    "largest",
    "(Tensor logit) -> Tensor",
    order.largest,
    lambda logit: logit.new_empty((), dtype=torch.float64),
)


def _quantile_gamma(
    logit: Tensor, q: float, log_m: Tensor, eps: float, interpolation: str = "none"
) -> Tensor:
    return order.quantile_gamma(logit, q, log_m=log_m, eps=eps, interpolation=interpolation)


_define(
    "quantile_gamma",
    '(Tensor logit, float q, Tensor log_m, float eps, str interpolation="none") -> Tensor',
    _quantile_gamma,
    lambda logit, *others: logit.new_empty((), dtype=torch.float64),
)


def _chain(logit: Tensor, seed: int, row: int, ids: Tensor | None, start: Tensor | None) -> Tensor:
    return groups.chain(logit, _rng(seed, row), start=start, ids=ids)


_define(
    "chain",
    f"(Tensor logit, {ROWS}, Tensor? start) -> Tensor",
    _chain,
    lambda logit, *others: logit.new_empty(logit.shape[0], dtype=torch.int64),
)


def _walk(
    logit: Tensor, seed: int, row: int, ids: Tensor | None, start: Tensor | None
) -> tuple[Tensor, Tensor]:
    return groups.walk(logit, _rng(seed, row), start=start, ids=ids)


_define(
    "walk",
    f"(Tensor logit, {ROWS}, Tensor? start) -> (Tensor, Tensor)",
    _walk,
    lambda logit, *others: (
        logit.new_empty(logit.shape[0], dtype=torch.int64),
        logit.new_empty(logit.shape[0], dtype=torch.int64),
    ),
)


def _select(
    logit: Tensor, seed: int, row: int, ids: Tensor | None, size: int, replace: bool
) -> Tensor:
    return groups.select(logit, _rng(seed, row), size=size, replace=replace, ids=ids)


_define(
    "select",
    f"(Tensor logit, {ROWS}, SymInt size, bool replace) -> Tensor",
    _select,
    lambda logit, seed, row, ids, size, replace: logit.new_empty(
        (logit.shape[0], size), dtype=torch.int64
    ),
)


def _langevin(
    z: Tensor,
    grad: Tensor,
    seed: int,
    row: int,
    ids: Tensor | None,
    step: int,
    step_size: float,
    noise: float,
) -> Tensor:
    return groups.langevin(
        z, grad, _rng(seed, row), step=step, step_size=step_size, noise=noise, ids=ids
    )


_define(
    "langevin",
    f"(Tensor z, Tensor grad, {ROWS}, SymInt step, float step_size, float noise) -> Tensor",
    _langevin,
    lambda z, *others: torch.empty_like(z, memory_format=torch.contiguous_format),
)
