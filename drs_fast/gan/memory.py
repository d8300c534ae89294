"""Whether a batch or more weights fit into memory, asked before anything is computed or written."""

import contextlib
import os
import sys
from pathlib import Path

import torch

from drs_fast.gan.gan import GAN

CONTAINER = Path("/sys/fs/cgroup/memory.max")  # bytes that a container may use, or "max"
INFO = Path("/proc/meminfo")


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


def check_weights(what: str, needed: int, device: torch.device) -> None:
    """ValueError if so many bytes of further weights are more than the device has left."""
    left = _left(device)
    if left is not None and needed > left:
        raise ValueError(
            f"{what} take another {needed / 2**30:,.2f} GiB of memory, and {device} has "
            f"{left / 2**30:,.2f} GiB left"
        )


def _left(device: torch.device) -> int | None:
    """Bytes of memory that can still be had; None if unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    total = _total(device)
    with contextlib.suppress(OSError, ValueError):
        pages = os.sysconf("SC_AVPHYS_PAGES")
        free = pages * os.sysconf("SC_PAGE_SIZE")
        for line in INFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = 1024 * int(line.split()[1])
        return free if total is None else min(free, total)
    return None


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
