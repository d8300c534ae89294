"""The ops as Triton kernels: one launch each if blocks may wait; the host never waits."""

import functools
import importlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from drs_fast.backends import workspaces
from drs_fast.backends.reference import Threshold
from drs_fast.backends.triton import repeated
from drs_fast.backends.triton.arguments import as_words, bits, forms, power_of_two, tensors
from drs_fast.backends.triton.launcher import Launched, Words, is_current, launch
from drs_fast.backends.triton.refusals import refuses as refuses
from drs_fast.backends.triton.repeated import Launches
from drs_fast.core import Rng
from drs_fast.core.compacted import COUNT_MASK, HEADER, TILE, Compacted, Ring, status_words, tiling

CHUNK = 4096  # words of up to 4 bytes that a block of threads copies at a time
ORDER_TILE, ORDER_PARTS = 4096, 512  # logits that a block loads at a time; most blocks of a pass
ORDER_WORDS = 32 + 256  # of quantile's workspace
GROUPS = 256  # groups that a block of threads serves, one per thread
DRAWS = 8  # blocks of four normals that are made for a row at a time
# A fused a * b + c has other bits; with fewer registers some kernels would spill.
OPTIONS = {"num_warps": 8, "enable_fp_fusion": False}
if torch.version.hip is None:
    OPTIONS["maxnreg"] = 128
_launches = Launches()
SINGLE_PASS_ROWS = COUNT_MASK  # a tile's count and flag share a word


def uniform(
    rng: Rng, ids: Tensor | None, n: int, *, stream: int, draw: int, device: torch.device
) -> Tensor:
    out = torch.empty(n, dtype=torch.float64, device=device)
    _launch(
        "random.uniform", device, n, out, ids, rng.signed_seed, rng.row, n, stream, draw,
        HAS_IDS=ids is not None, BLOCK=TILE,
    )  # fmt: skip
    return out


def words(
    rng: Rng, ids: Tensor | None, n: int, d: int, *, stream: int, draw: int, device: torch.device
) -> Tensor:
    return _elements(torch.int64, rng, ids, n, d, stream, draw, device)


def normal(
    rng: Rng, ids: Tensor | None, n: int, d: int, *, stream: int, draw: int, device: torch.device
) -> Tensor:
    return _elements(torch.float32, rng, ids, n, d, stream, draw, device)


def _elements(
    dtype: torch.dtype,
    rng: Rng,
    ids: Tensor | None,
    n: int,
    d: int,
    stream: int,
    draw: int,
    device: torch.device,
) -> Tensor:
    out = torch.empty((n, d), dtype=dtype, device=device)
    if d:
        draws = min(power_of_two(-(-d // 4)), DRAWS)
        _launch(
            "random.elements", device, n, out, ids, rng.signed_seed, rng.row, n, stream, draw,
            HAS_IDS=ids is not None, NORMAL=dtype == torch.float32, D=d, DRAWS=draws,
            BLOCK=TILE // 4 // draws, columns=-(-d // (4 * draws)),
        )  # fmt: skip
    return out


def probability(logit: Tensor, threshold: Threshold) -> Tensor:
    out = torch.empty(len(logit), dtype=torch.float64, device=logit.device)
    _launch(
        "decision.probability", logit.device, len(logit), logit,
        *tensors(threshold), out, *bits(threshold), len(logit),
        **forms(threshold), BLOCK=TILE,
    )  # fmt: skip
    return out


def weight(logit: Tensor, threshold: Threshold) -> Tensor:
    out = torch.empty(len(logit), dtype=torch.float64, device=logit.device)
    _launch(
        "decision.weight", logit.device, len(logit), logit,
        *tensors(threshold), out, *bits(threshold), len(logit),
        **forms(threshold), BLOCK=TILE,
    )  # fmt: skip
    return out


def accept(logit: Tensor, rng: Rng, ids: Tensor | None, threshold: Threshold) -> Tensor:
    out = torch.empty(len(logit), dtype=torch.bool, device=logit.device)
    _launch(
        "decision.accept", logit.device, len(logit), logit, ids,
        *tensors(threshold), out, *bits(threshold),
        rng.signed_seed, rng.row, len(logit),
        HAS_IDS=ids is not None, **forms(threshold), BLOCK=TILE,
    )  # fmt: skip
    return out


def accept_compact(
    logit: Tensor,
    rows: tuple[Tensor, ...],
    rng: Rng,
    ids: Tensor | None,
    threshold: Threshold,
    out: Compacted,
) -> Compacted:
    _compact(logit, rows, rng, ids, threshold, out)
    return out


def accept_latents(
    logit: Tensor, rng: Rng, ids: Tensor | None, threshold: Threshold, out: Compacted
) -> Compacted:
    (z,) = out.rows
    _compact(logit, (), rng, ids, threshold, replace(out, rows=()), z)
    return out


def accept_append(
    logit: Tensor, rows: tuple[Tensor, ...], ids: Tensor | None, threshold: Threshold, ring: Ring
) -> Ring:
    _compact(logit, rows, Rng(ring.seed), ids, threshold, ring)
    return ring


def appending(threshold: Threshold, ring: Ring) -> Callable[[Tensor, tuple[Tensor, ...]], Ring]:
    """accept_append for this threshold and ring; a launch like an earlier one repeats that one."""
    held = [t for t in (*threshold[:2], *ring.tensors()) if isinstance(t, Tensor)]
    launches, device = Launches(), ring.state.device

    def append(logit: Tensor, rows: tuple[Tensor, ...]) -> Ring:
        key = (*repeated.of(logit, rows), *[tensor.data_ptr() for tensor in held])
        if not (is_current(device) and launches.repeat(key, logit, rows)):
            launched = _compact(logit, rows, Rng(ring.seed), None, threshold, ring)
            launches.keep(key, launched)
        return ring

    return append


def walk(
    logit: Tensor, rng: Rng, ids: Tensor | None, start: Tensor | None
) -> tuple[Tensor, Tensor]:
    groups, candidates = logit.shape
    ends = torch.empty(groups, dtype=torch.int64, device=logit.device)
    counts = torch.empty_like(ends)
    _launch(
        "groups.walk", logit.device, groups, logit, ids, start, ends, counts,
        rng.signed_seed, rng.row, groups, candidates,
        HAS_IDS=ids is not None, HAS_START=start is not None, BLOCK=GROUPS,
    )  # fmt: skip
    return ends, counts


def select(logit: Tensor, rng: Rng, ids: Tensor | None, size: int, replace: bool) -> Tensor:
    groups, candidates = logit.shape
    out = torch.empty((groups, size), dtype=torch.int64, device=logit.device)
    room = torch.empty((candidates, groups), dtype=torch.float64, device=logit.device)
    _launch(
        "groups.select", logit.device, groups, logit, ids, room, out,
        rng.signed_seed, rng.row, groups, candidates, size,
        HAS_IDS=ids is not None, REPLACE=replace, BLOCK=GROUPS,
    )  # fmt: skip
    return out


def langevin(
    z: Tensor, grad: Tensor, rng: Rng, ids: Tensor | None, step: int, drift: float, scale: float
) -> Tensor:
    (n, d), out = z.shape, torch.empty_like(z)
    if d:
        draws = min(power_of_two(-(-d // 4)), DRAWS)
        _launch(
            "groups.langevin", z.device, n, z, grad, out, ids, drift, scale,
            rng.signed_seed, rng.row, n, step * -(-d // 4), HAS_IDS=ids is not None, D=d,
            DRAWS=draws, BLOCK=TILE // 4 // draws, columns=-(-d // (4 * draws)),
        )  # fmt: skip
    return out


def largest(logit: Tensor) -> Tensor:
    out = torch.full((), -torch.inf, dtype=torch.float64, device=logit.device)
    _launch("decision.largest", logit.device, len(logit), logit, out, len(logit), BLOCK=TILE)
    return out


def quantile_gamma(logit: Tensor, q: float, threshold: Threshold) -> Tensor:
    out = torch.empty((), dtype=torch.float64, device=logit.device)
    passes = 8 if logit.dtype == torch.float64 else 4
    parts = min(-(-len(logit) // ORDER_TILE), ORDER_PARTS)
    # On other GPUs no block may wait for another, so each pass is a launch.
    single_pass = len(logit) <= SINGLE_PASS_ROWS and torch.version.hip is None
    launches = 1 if single_pass else passes
    workspace = workspaces.zero(logit.device, ORDER_WORDS)
    for _ in range(launches):
        _launch(
            "quantile.radix_select", logit.device, parts * passes // launches * ORDER_TILE,
            logit, tensors(threshold)[0], out, workspace,
            *bits(threshold._replace(gamma=q)), len(logit), parts,
            PASSES=passes, LOG_M=forms(threshold)["LOG_M"], BLOCK=ORDER_TILE,
        )  # fmt: skip
    return out


def _compact(
    logit: Tensor,
    rows: tuple[Tensor, ...],
    rng: Rng,
    ids: Tensor | None,
    threshold: Threshold,
    out: Compacted | Ring,
    z: Tensor | None = None,
    single_pass: bool | None = None,
) -> Launched | None:
    n, capacity, d = logit.shape[0], out.ids.shape[0], 0 if z is None else z.shape[1]
    if isinstance(out, Ring):
        counts: tuple[Tensor, ...] = ()
        state, workspace, room, slots = out.state, out.workspace, out.batch, capacity - 1
    else:
        counts, state, slots = (out.count, out.invalid, out.above), None, -1
        workspace, room = workspaces.of(logit.device, max(n, 1))
    if n == 0:
        for count in counts:
            count.zero_()
        return None
    if single_pass is None:
        # On other GPUs no block may wait for another: nothing promises that both run.
        single_pass = n <= SINGLE_PASS_ROWS and torch.version.hip is None
    tile, parts = tiling(n, sum(row.nbytes for row in rows) // n + 4 * d)
    numbers = (*bits(threshold), rng.signed_seed, rng.row)
    key = None
    if single_pass and state is None and z is None and _known_on_host(ids, threshold):
        key = (
            *repeated.of(logit, rows), logit.device, capacity, room, tile, workspace.data_ptr(),
            *[to.data_ptr() for to in out.tensors()], CHUNK, *OPTIONS.values(),
        )  # fmt: skip
        if is_current(logit.device) and _launches.repeat(key, logit, rows, numbers):
            return None
    tiles = status_words(room)
    indices = Words(workspace, torch.int32, HEADER + 2 * (tiles + 1))
    sources, targets, layout = as_words(rows, out.rows)
    deciding = (logit, ids, *tensors(threshold))
    copying = (logit, ids, sources, targets, out.ids, out.logit, z)
    flags: dict[str, Any] = {"HAS_IDS": ids is not None, "RING": state is not None, "BLOCK": tile}
    shape: dict[str, Any] = {
        "LAYOUT": layout,
        "D": d,
        "LATENTS": min(power_of_two(-(-d // 4)), DRAWS) if d else 0,
        "CHUNK": CHUNK,
    }
    if single_pass:
        launched = _launch(
            "compact.single_pass", logit.device, n, *deciding, *copying[2:], counts, state,
            workspace, indices, *numbers, n, capacity, slots, tiles,
            columns=parts, **flags, **shape, **forms(threshold),
        )  # fmt: skip
        if key is not None:
            _launches.keep(key, launched)
        return launched
    _launch(
        "compact.decide_tiles", logit.device, n, *deciding, counts, state, workspace, indices,
        *numbers, n, capacity, tiles, **flags, **forms(threshold),
    )  # fmt: skip
    _launch(
        "compact.copy_tiles", logit.device, n, *copying, state, workspace, indices,
        *numbers[3:], n, capacity, slots, tiles, columns=parts, **flags, **shape,
    )  # fmt: skip
    return None


def _known_on_host(ids: Tensor | None, threshold: Threshold) -> bool:
    return ids is None and isinstance(threshold.log_m, float) and isinstance(threshold.gamma, float)


def _launch(
    name: str,
    device: torch.device,
    n: int,
    *arguments: Any,
    BLOCK: int,
    columns: int = 1,
    **flags: Any,
) -> Launched | None:
    if n == 0:
        return None
    grid = (-(-n // BLOCK), columns, 1)
    return launch(
        name, _kernel(name), device, grid, arguments, {"BLOCK": BLOCK, **flags, **OPTIONS}
    )


@functools.cache
def _kernel(name: str) -> Any:
    module, function = name.split(".")
    return getattr(importlib.import_module(f"{__name__}.{module}"), function)
