"""Accept and compact in one launch (decoupled look-back), or in two launches without spinning.

Source: Merrill and Garland, Single-pass parallel prefix scan with decoupled look-back (2016).
"""

import triton
import triton.language as tl

from drs_fast.backends.triton.arithmetic import ACCEPT, NUMBERS, decide, parameter, uniform_bits
from drs_fast.backends.triton.copying import copy_tile
from drs_fast.backends.triton.random import row_numbers
from drs_fast.core import compacted

SMALL_TILE = tl.constexpr(compacted.SMALL_TILE)
TICKET = tl.constexpr(compacted.TICKET)
DONE = tl.constexpr(compacted.DONE)
EPOCH = tl.constexpr(compacted.EPOCH)
TOTAL = tl.constexpr(compacted.TOTAL)
INVALID = tl.constexpr(compacted.INVALID)
ABOVE = tl.constexpr(compacted.ABOVE)
HEADER = tl.constexpr(compacted.HEADER)

RING_CURSOR = tl.constexpr(compacted.RING_CURSOR)
RING_LIMIT = tl.constexpr(compacted.RING_LIMIT)
RING_ROW = tl.constexpr(compacted.RING_ROW)
RING_INVALID = tl.constexpr(compacted.RING_INVALID)
RING_ABOVE = tl.constexpr(compacted.RING_ABOVE)

ALONE = tl.constexpr(compacted.ALONE)
INCLUSIVE = tl.constexpr(compacted.INCLUSIVE)
FLAG_SHIFT = tl.constexpr(compacted.FLAG_SHIFT)
EPOCH_SHIFT = tl.constexpr(compacted.EPOCH_SHIFT)
COUNT_MASK = tl.constexpr(compacted.COUNT_MASK)
EPOCH_MASK = tl.constexpr(compacted.EPOCH_MASK)


@triton.jit
def _decide_tile(
    logit, ids, log_m, gamma, log_m_bits, gamma_bits, s_bits, workspace, seed, row, n, tile,
    counted,
    HAS_IDS: tl.constexpr, LOG_M: tl.constexpr, GAMMA: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Which rows of the tile are accepted; adds invalid and above to the workspace, if wanted."""
    index = tile * BLOCK + tl.arange(0, BLOCK)
    inside = index < n
    value = tl.load(logit + index, mask=inside, other=float("-inf")).to(tl.float64)
    top = parameter(log_m, log_m_bits, index, inside, LOG_M)
    shift = parameter(gamma, gamma_bits, index, inside, GAMMA)
    bits = uniform_bits(seed, row_numbers(ids, row, index, inside, HAS_IDS), ACCEPT, 0)
    keep = decide(value, bits, top, shift, parameter(None, s_bits, index, inside, "number"))
    invalid = inside & ~(value < float("inf"))
    above = (value > top) & (value < float("inf"))
    # One sum for both, as each is at most 1,024.
    odd = tl.sum((invalid.to(tl.int32) << 16) + above.to(tl.int32))
    if (odd > 0) & counted:
        tl.atomic_add(workspace + INVALID, (odd >> 16).to(tl.int64), sem="relaxed")
        tl.atomic_add(workspace + ABOVE, (odd & 0xFFFF).to(tl.int64), sem="relaxed")
    return keep


@triton.jit
def _store_indices(indices, keep, BLOCK: tl.constexpr):
    """Writes the tile's accepted rows, in order, to the front of its indices; their number."""
    kept = keep.to(tl.int32)
    place = tl.cumsum(kept) - kept
    tl.store(indices + place, tl.arange(0, BLOCK), mask=keep)
    return tl.sum(kept)


@triton.jit
def _status(epoch, flag, count):
    return (epoch << EPOCH_SHIFT) | ((epoch * 0 + flag) << FLAG_SHIFT) | count


@triton.jit
def _look_back(status, tile, epoch, LANES: tl.constexpr):
    """How many rows earlier tiles accepted; looks at LANES tiles at a time."""
    lanes = tl.arange(0, LANES)
    nearest = tile - 1
    before = tile * 0
    while nearest >= 0:
        at = nearest - lanes
        exists = at >= 0
        # Adding 0 is an atomic load. Relaxed is enough, because a word carries all its information.
        word = tl.atomic_add(status + at, lanes.to(tl.int64) * 0, mask=exists, sem="relaxed")
        fresh = (word >> EPOCH_SHIFT) == epoch
        flag = tl.where(fresh, (word >> FLAG_SHIFT) & 3, 0)
        flag = tl.where(exists, flag, INCLUSIVE)
        count = tl.where(exists, word & COUNT_MASK, 0)
        missing = tl.min(tl.where(flag == 0, lanes, LANES))
        inclusive = tl.min(tl.where(flag == INCLUSIVE, lanes, LANES))
        if inclusive < missing:
            before += tl.sum(tl.where(lanes <= inclusive, count, 0))
            nearest = tile * 0 - 1
        elif missing == LANES:
            before += tl.sum(count)
            nearest -= LANES
    return before


@triton.jit
def _finish(out, state, workspace, n, limit, RING: tl.constexpr):
    """In the last block: writes totals to their places, and readies the workspace for the next."""
    total = tl.atomic_xchg(workspace + TOTAL, 0, sem="relaxed")
    invalid = tl.atomic_xchg(workspace + INVALID, 0, sem="relaxed")
    above = tl.atomic_xchg(workspace + ABOVE, 0, sem="relaxed")
    if RING:
        cursor = tl.load(state + RING_CURSOR)
        tl.store(state + RING_CURSOR, tl.minimum(cursor + total, tl.maximum(cursor, limit)))
        tl.store(state + RING_ROW, tl.load(state + RING_ROW) + n)
        tl.store(state + RING_INVALID, tl.load(state + RING_INVALID) + invalid)
        tl.store(state + RING_ABOVE, tl.load(state + RING_ABOVE) + above)
    else:
        tl.store(out[0], tl.minimum(total, limit))
        tl.store(out[1], invalid)
        tl.store(out[2], above)
    tl.store(workspace + TICKET, 0)
    tl.store(workspace + DONE, 0)


@triton.jit(do_not_specialize=NUMBERS)
def single_pass(
    logit, ids, log_m, gamma, sources, targets, out_ids, out_logit, z, counts, state,
    workspace, indices,
    log_m_bits: tl.int64, gamma_bits: tl.int64, s_bits: tl.int64,
    seed: tl.int64, row: tl.int64, n: tl.int64, capacity: tl.int64, slots: tl.int64,
    status_words: tl.int64,
    HAS_IDS: tl.constexpr, LOG_M: tl.constexpr, GAMMA: tl.constexpr, RING: tl.constexpr,
    LAYOUT: tl.constexpr, D: tl.constexpr, LATENTS: tl.constexpr,
    BLOCK: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """One launch. Tiles are taken by ticket, so that a tile waits only for running tiles.

    The blocks that share a tile all decide on it, which is cheap; the first says what it found.
    """
    ticket = tl.atomic_add(workspace + TICKET, 1, sem="relaxed").to(tl.int32)
    if BLOCK > SMALL_TILE:  # which nobody shares; the decision needs the registers
        tile, part, parts = ticket.to(tl.int64), 0, 1
    else:
        parts = tl.num_programs(1)
        tile, part = (ticket // parts).to(tl.int64), ticket % parts
    tiles = tl.num_programs(0)
    if RING:
        row = tl.load(state + RING_ROW)
    first = tile * BLOCK
    indices += first
    keep = _decide_tile(
        logit, ids, log_m, gamma, log_m_bits, gamma_bits, s_bits, workspace, seed, row, n, tile,
        part == 0, HAS_IDS, LOG_M, GAMMA, BLOCK,
    )  # fmt: skip
    # Blocks that share the tile write the same.
    count = _store_indices(indices, keep, BLOCK).to(tl.int64)
    # Not earlier than needed, because the decision takes all registers.
    epoch = tl.load(workspace + EPOCH)
    start, limit = tile * 0, capacity
    if RING:
        start, limit = tl.load(state + RING_CURSOR), tl.load(state + RING_LIMIT)
    status = workspace + HEADER
    flag = tl.where(tile == 0, INCLUSIVE, ALONE)
    if part == 0:
        tl.atomic_xchg(status + tile, _status(epoch, flag, count), sem="relaxed")
    # Small tiles are done at the same time, so that the nearest that knows all before it is far.
    before = _look_back(status, tile, epoch, 32 if BLOCK > SMALL_TILE else 256)
    if (part == 0) & (tile > 0):
        tl.atomic_xchg(status + tile, _status(epoch, INCLUSIVE, before + count), sem="relaxed")
    if (part == 0) & (tile == tiles - 1):
        tl.atomic_xchg(workspace + TOTAL, before + count, sem="relaxed")
    # After this the block sees its indices, and the last block everything before it.
    tl.debug_barrier()
    if tl.atomic_add(workspace + DONE, 1, sem="acq_rel") == tiles * parts - 1:
        _finish(counts, state, workspace, n, limit, RING)
        following = (epoch + 1) & EPOCH_MASK
        tl.store(workspace + EPOCH, following)
        if following == 0:
            _clear(status, status_words, BLOCK)
    start += before
    copy_tile(
        logit, ids, sources, targets, out_ids, out_logit, z, indices, seed, row, first, start,
        tl.minimum(count, limit - start), slots, part, parts,
        HAS_IDS, LAYOUT, D, BLOCK, CHUNK, LATENTS,
    )  # fmt: skip


@triton.jit
def _clear(status, status_words, BLOCK: tl.constexpr):
    done = status_words * 0
    while done < status_words:
        at = done + tl.arange(0, BLOCK)
        tl.store(status + at, at * 0, mask=at < status_words)
        done += BLOCK


@triton.jit(do_not_specialize=NUMBERS)
def decide_tiles(
    logit, ids, log_m, gamma, counts, state, workspace, indices,
    log_m_bits: tl.int64, gamma_bits: tl.int64, s_bits: tl.int64,
    seed: tl.int64, row: tl.int64, n: tl.int64, capacity: tl.int64, status_words: tl.int64,
    HAS_IDS: tl.constexpr, LOG_M: tl.constexpr, GAMMA: tl.constexpr, RING: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """The first of two launches, in which no block waits: indices, and where each tile starts."""
    tile = tl.program_id(0).to(tl.int64)
    tiles = tl.num_programs(0).to(tl.int64)
    base, limit = tile * 0, capacity
    if RING:
        base, limit = tl.load(state + RING_CURSOR), tl.load(state + RING_LIMIT)
        row = tl.load(state + RING_ROW)
    keep = _decide_tile(
        logit, ids, log_m, gamma, log_m_bits, gamma_bits, s_bits, workspace, seed, row, n, tile,
        True, HAS_IDS, LOG_M, GAMMA, BLOCK,
    )  # fmt: skip
    count = _store_indices(indices + tile * BLOCK, keep, BLOCK).to(tl.int64)
    starts = workspace + HEADER + status_words
    tl.atomic_xchg(starts + tile, count, sem="relaxed")
    tl.debug_barrier()
    if tl.atomic_add(workspace + DONE, 1, sem="acq_rel") == tiles - 1:
        total = _add_up(starts, base, tiles, BLOCK)
        tl.atomic_xchg(workspace + TOTAL, total, sem="relaxed")
        _finish(counts, state, workspace, n, limit, RING)


@triton.jit
def _add_up(starts, base, tiles, BLOCK: tl.constexpr):
    """Turns the tiles' counts into the slots where they start, and the end; returns the sum."""
    total = tiles * 0
    done = tiles * 0
    while done < tiles:
        at = done + tl.arange(0, BLOCK)
        count = tl.atomic_add(starts + at, at * 0, mask=at < tiles, sem="relaxed")
        count = tl.where(at < tiles, count, 0)
        tl.store(starts + at, base + total + tl.cumsum(count) - count, mask=at < tiles)
        total += tl.sum(count)
        done += BLOCK
    tl.store(starts + tiles, base + total)
    return total


@triton.jit(do_not_specialize=NUMBERS)
def copy_tiles(
    logit, ids, sources, targets, out_ids, out_logit, z, state, workspace, indices,
    seed: tl.int64, row: tl.int64, n: tl.int64, capacity: tl.int64, slots: tl.int64,
    status_words: tl.int64,
    HAS_IDS: tl.constexpr, RING: tl.constexpr, LAYOUT: tl.constexpr, D: tl.constexpr,
    LATENTS: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """The second of two launches."""
    tile = tl.program_id(0).to(tl.int64)
    limit = capacity
    if RING:
        limit, row = tl.load(state + RING_LIMIT), tl.load(state + RING_ROW) - n
    starts = workspace + HEADER + status_words + tile
    start = tl.load(starts)
    count = tl.minimum(tl.load(starts + 1), limit) - start
    copy_tile(
        logit, ids, sources, targets, out_ids, out_logit, z, indices + tile * BLOCK, seed, row,
        tile * BLOCK, start, count, slots, tl.program_id(1), tl.num_programs(1),
        HAS_IDS, LAYOUT, D, BLOCK, CHUNK, LATENTS,
    )  # fmt: skip
