"""The accept decision, and the accepted rows."""

from collections.abc import Callable

import torch
from torch import Tensor

from drs_fast.core import Rng
from drs_fast.core.arguments import describe, integer
from drs_fast.core.compacted import Compacted, Ring, workspace_words
from drs_fast.ops import checks, outputs, remembered
from drs_fast.ops.dispatch import call
from drs_fast.ops.library import ROWS, THRESHOLD, operator

# Compacting keeps a workspace from call to call, which PyTorch's own CUDA graphs cannot see.
KEEPS = (torch.Tag.cudagraph_unsafe,)


@operator(
    f"(Tensor logit, {THRESHOLD}) -> Tensor",
    lambda logit, **_: torch.empty_like(logit, dtype=torch.float64),
)
def probability(
    logit: Tensor,
    *,
    log_m: float | Tensor,
    gamma: float | Tensor = 0.0,
    eps: float = 1e-6,
) -> Tensor:
    """Acceptance probabilities, (n,) float64; 0 if the logit is not finite.

    Source: Azadi et al., Discriminator rejection sampling (2019), equation 8.
    """
    logit = checks.logit(logit)
    return call("probability", logit.device)(logit, checks.threshold(logit, log_m, gamma, eps))


@operator(
    f"(Tensor logit, {THRESHOLD}) -> Tensor",
    lambda logit, **_: torch.empty_like(logit, dtype=torch.float64),
)
def weight(
    logit: Tensor,
    *,
    log_m: float | Tensor,
    gamma: float | Tensor = 0.0,
    eps: float = 1e-6,
) -> Tensor:
    """What an accepted row counts for: exp(logit - log_m) / probability, (n,) float64.

    With gamma and eps 0 this is max(1, exp(logit - log_m)). 0 if the logit is not finite.
    """
    logit = checks.logit(logit)
    return call("weight", logit.device)(logit, checks.threshold(logit, log_m, gamma, eps))


@operator(
    f"(Tensor logit, {ROWS}, {THRESHOLD}) -> Tensor",
    lambda logit, **_: torch.empty_like(logit, dtype=torch.bool),
)
def accept(
    logit: Tensor,
    rng: Rng,
    *,
    log_m: float | Tensor,
    gamma: float | Tensor = 0.0,
    eps: float = 1e-6,
    ids: Tensor | None = None,
) -> Tensor:
    """Whether each row is accepted, (n,) bool: its uniform (stream 1) is below its probability.

    logit (n,) of any floating dtype; log_m, gamma: numbers or tensors () or (n,); |gamma| <= 600.
    """
    logit = checks.logit(logit)
    ids, _ = checks.rows(rng, logit.shape[0], ids, logit.device)
    threshold = checks.threshold(logit, log_m, gamma, eps)
    return call("accept", logit.device)(logit, rng, ids, threshold)


@operator(
    f"(Tensor logit, Tensor[] rows, {ROWS}, {THRESHOLD}, Tensor(a!)[] out) -> ()",
    lambda logit, rows, **_: Compacted.empty(logit, rows),
    KEEPS,
)
def accept_compact(
    logit: Tensor,
    *rows: Tensor,
    rng: Rng,
    log_m: float | Tensor,
    gamma: float | Tensor = 0.0,
    eps: float = 1e-6,
    ids: Tensor | None = None,
    out: Compacted | None = None,
) -> Compacted:
    """Copies the accepted rows of every tensor, their ids and logits, in row order; counts them.

    logit (n,); rows: tensors (n, ...) of any dtype; only accepted rows are read.
    ids: (n,) int64 row numbers, if they are not rng.row, rng.row + 1, ...
    out: a Compacted to write into, whose capacity then limits the count; else the capacity is n.
    """
    if (
        ids is None
        and type(rng) is Rng
        and remembered.good(out, logit, rows, log_m, gamma)
        and rng.row <= 2**63 - logit.shape[0]
    ):
        threshold = checks.threshold(logit, log_m, gamma, eps)
        return call("accept_compact", logit.device)(logit, rows, rng, None, threshold, out)
    logit = checks.logit(logit)
    n = logit.shape[0]
    ids, where = checks.rows(rng, n, ids, logit.device)
    rows = checks.row_tensors(rows, n, where)
    threshold = checks.threshold(logit, log_m, gamma, eps)
    if out is None:
        out = Compacted.empty(logit, rows)
    elif outputs.surely_good(out, logit, rows, ids, threshold.log_m, threshold.gamma):
        remembered.remember(out)
    else:
        outputs.check_out(out, logit, [(row.shape[1:], row.dtype) for row in rows])
        outputs.apart(out, logit, ids, *rows, *threshold[:2])
    return call("accept_compact", where)(logit, checks.row_major(rows), rng, ids, threshold, out)


@operator(
    f"(Tensor logit, SymInt d, {ROWS}, {THRESHOLD}, Tensor(a!)[] out) -> ()",
    lambda logit, d, **_: _empty(logit, d),
    KEEPS,
)
def accept_latents(
    logit: Tensor,
    d: int,
    *,
    rng: Rng,
    log_m: float | Tensor,
    gamma: float | Tensor = 0.0,
    eps: float = 1e-6,
    ids: Tensor | None = None,
    out: Compacted | None = None,
) -> Compacted:
    """Like accept_compact for the normal latents of these rows, which are made anew, not read.

    rows[0] is (capacity, d) float32, bit for bit the accepted rows of `normal`.
    """
    logit = checks.logit(logit)
    checks.counter(0, max(integer("d", d, 0) - 1, 0) // 4)
    checks.room("rows[0]", logit.shape[0], d)
    ids, where = checks.rows(rng, logit.shape[0], ids, logit.device)
    threshold = checks.threshold(logit, log_m, gamma, eps)
    if out is None:
        out = _empty(logit, d)
    else:
        outputs.check_out(out, logit, [(torch.Size([d]), torch.float32)])
        outputs.apart(out, logit, ids, *threshold[:2])
    return call("accept_latents", where)(logit, rng, ids, threshold, out)


def _empty(logit: Tensor, d: int) -> Compacted:
    z = torch.empty((logit.shape[0], d), dtype=torch.float32, device=logit.device)
    return Compacted.empty(logit, (z,))


def ring(
    logit: Tensor,
    *rows: Tensor,
    rng: Rng,
    capacity: int,
    log_m: float | Tensor,
    limit: int = 2**62,
) -> Ring:
    """Makes a ring for batches like this one or smaller; the first starts at rng.row.

    logit (n,), rows (n, ...): only their shapes, dtypes and device are used.
    capacity: rows it holds, a power of two, at least a batch.
    limit: rows wanted in all; rows accepted after them are dropped.
    """
    logit = checks.logit(logit)
    n = logit.shape[0]
    checks.rows(rng, n, None, logit.device)
    rows = checks.row_tensors(rows, n, logit.device)
    integer("limit", limit, 0, 2**63)
    if integer("capacity", capacity, 1, 2**62) < n or capacity & (capacity - 1):
        raise ValueError(f"capacity must be a power of two, at least {n}, got {capacity}")
    checks.room("a ring", capacity, *(row[0].numel() for row in rows if n))
    top = checks.threshold(logit, log_m, 0.0, 0.0).log_m
    if isinstance(top, Tensor) and top.ndim:
        raise ValueError(f"log_m must be one number here, got {describe(log_m)}")
    made = Ring(
        rng.seed,
        tuple(row.new_empty((capacity, *row.shape[1:]), requires_grad=False) for row in rows),
        torch.empty(capacity, dtype=torch.int64, device=logit.device),
        torch.empty(capacity, dtype=logit.dtype, device=logit.device),
        torch.tensor([0, limit, rng.row, 0, 0, 0], dtype=torch.int64, device=logit.device),
        torch.zeros(workspace_words(n), dtype=torch.int64, device=logit.device),
        n,
    )
    made.log_m.fill_(top)
    return made


@operator(
    "(Tensor logit, Tensor[] rows, SymInt seed, SymInt batch, Tensor? ids, Tensor? log_m,"
    " Tensor gamma, float eps, Tensor(a!)[] ring) -> ()"
)
def accept_append(
    logit: Tensor,
    *rows: Tensor,
    ring: Ring,
    log_m: float | Tensor | None = None,
    gamma: float | Tensor = 0.0,
    eps: float = 1e-6,
    ids: Tensor | None = None,
) -> Ring:
    """Like accept_compact for the ring's next rows; appends the accepted ones to the ring.

    The cursor, the next batch's first row and the counts are updated on the rows' device, so a CUDA
    graph of this call takes another batch at every replay. log_m: None uses the ring's.
    Returns the ring.
    """
    logit = checks.logit(logit)
    ids, where = checks.rows(Rng(0), logit.shape[0], ids, logit.device)
    rows = checks.row_tensors(rows, logit.shape[0], where)
    outputs.check_ring(ring, logit, [(row.shape[1:], row.dtype) for row in rows])
    threshold = checks.threshold(logit, 0.0 if log_m is None else log_m, gamma, eps)
    outputs.apart(ring, logit, ids, *rows, *threshold[:2])
    if log_m is None:
        threshold = threshold._replace(log_m=ring.log_m)
    return call("accept_append", where)(logit, checks.row_major(rows), ids, threshold, ring)


def appending(
    ring: Ring,
    *,
    log_m: float | Tensor | None = None,
    gamma: float | Tensor = 0.0,
    eps: float = 1e-6,
) -> Callable[..., Ring]:
    """Returns accept_append(logit, *rows) for this ring and threshold, checking them only once.

    For loops: between calls, only the values of logit and rows may change.
    """
    like = ring.logit[: ring.batch]
    outputs.check_ring(ring, like, [(row.shape[1:], row.dtype) for row in ring.rows])
    threshold = checks.threshold(like, 0.0 if log_m is None else log_m, gamma, eps)
    if log_m is None:
        threshold = threshold._replace(log_m=ring.log_m)
    quick = call("appending", like.device)(threshold, ring)
    fits = outputs.Fits(ring)

    def append(logit: Tensor, *rows: Tensor) -> Ring:
        if fits(logit, rows):
            return quick(logit, rows)
        return accept_append(logit, *rows, ring=ring, log_m=log_m, gamma=gamma, eps=eps)

    return append
