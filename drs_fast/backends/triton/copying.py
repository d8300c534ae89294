"""Copies a tile's accepted rows to their slots, or makes their latents there."""

import triton
import triton.language as tl

from drs_fast.backends.triton.arithmetic import LATENT, normals
from drs_fast.backends.triton.random import row_numbers


@triton.jit
def copy_tile(
    logit, ids, sources, targets, out_ids, out_logit, z, indices, seed, row, first, start, count,
    slots, part, parts,
    HAS_IDS: tl.constexpr, LAYOUT: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr,
    CHUNK: tl.constexpr, LATENTS: tl.constexpr,
):  # fmt: skip
    """Copies rows first + indices[0:count] to the slots from start on; slots is a bit mask.

    Chunks of them go in turn to the blocks that share the tile: this one is `part` of `parts`.
    """
    k = tl.arange(0, BLOCK)
    within = k < count * (part == 0)
    index = first + tl.load(indices + k, mask=within, other=0)
    slot = (start + k) & slots
    tl.store(out_ids + slot, row_numbers(ids, row, index, within, HAS_IDS), mask=within)
    tl.store(out_logit + slot, tl.load(logit + index, mask=within), mask=within)
    for i in tl.static_range(len(sources)):
        _copy_rows(
            sources[i], targets[i], indices, first, start, count, slots, part, parts,
            LAYOUT[i][0], LAYOUT[i][1], LAYOUT[i][2], CHUNK // LAYOUT[i][2],
        )  # fmt: skip
    if LATENTS > 0:
        _make_latents(
            z, ids, indices, seed, row, first, start, count, slots, part, parts,
            HAS_IDS, D, LATENTS, CHUNK // (4 * LATENTS),
        )  # fmt: skip


@triton.jit
def _copy_rows(
    source, target, indices, first, start, count, slots, part, parts,
    WIDTH: tl.constexpr, STRIDE: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    ACROSS: tl.constexpr = (WIDTH + COLUMNS - 1) // COLUMNS  # chunks side by side
    chunk = part
    while chunk // ACROSS * ROWS < count:
        k = chunk // ACROSS * ROWS + tl.arange(0, ROWS)
        within = k < count
        index = first + tl.load(indices + k, mask=within, other=0)
        read = (source + index * STRIDE)[:, None]
        write = (target + ((start + k) & slots) * WIDTH)[:, None]
        column = (chunk % ACROSS * COLUMNS + tl.arange(0, COLUMNS))[None, :]
        mask = within[:, None] & (column < WIDTH)
        tl.store(write + column, tl.load(read + column, mask=mask), mask=mask)
        chunk += parts


@triton.jit
def _make_latents(
    z, ids, indices, seed, row, first, start, count, slots, part, parts,
    HAS_IDS: tl.constexpr, D: tl.constexpr, DRAWS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    ACROSS: tl.constexpr = (D + 4 * DRAWS - 1) // (4 * DRAWS)
    chunk = part
    while chunk // ACROSS * ROWS < count:
        k = chunk // ACROSS * ROWS + tl.arange(0, ROWS)
        within = k < count
        index = first + tl.load(indices + k, mask=within, other=0)
        number = row_numbers(ids, row, index, within, HAS_IDS)[:, None]
        write = (z + ((start + k) & slots) * D)[:, None]
        draw = (chunk % ACROSS * DRAWS + tl.arange(0, DRAWS))[None, :]
        column = (chunk % ACROSS * 4 * DRAWS + tl.arange(0, 4 * DRAWS))[None, :]
        value = normals(seed, number, LATENT, draw)
        tl.store(write + column, value, mask=within[:, None] & (column < D))
        chunk += parts
