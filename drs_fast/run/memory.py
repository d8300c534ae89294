"""Whether a batch fits into memory, asked before anything is computed or written."""

import contextlib
import os
import sys
from pathlib import Path

import torch

from drs_fast.gan import GAN

CONTAINER = Path("/sys/fs/cgroup/memory.max")  # bytes that a container may use, or "max"


def check_batch(gan: GAN, sample_bytes: int = 0) -> None:
    """ValueError if the rows of one batch alone need more memory than the device has.

    sample_bytes: of one sample of G; 0 if unknown. Logits, ids, and latents and samples with the
    copies that G and D get are counted; what else G and D need is not known here.
    """
    there = _total(gan.device)
    row = 2 * (4 * gan.latent_dim + sample_bytes) + 4 + 8
    if there is not None and gan.block * row > there:
        raise ValueError(
            f"batch_size={gan.block:,} needs at least {gan.block * row / 2**30:,.1f} GiB of "
            f"memory, {row:,} bytes a row, and {gan.device} has {there / 2**30:,.1f} GiB; "
            f"at most {there // row:,} rows fit"
        )


def _total(device: torch.device) -> int | None:
    """Bytes of memory that the device has; None if unknown."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    if device.type != "cpu" or sys.platform == "win32":
        return None
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError):
        return min(total, int(CONTAINER.read_text()))
    return total
