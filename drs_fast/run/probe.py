"""Hashes what a model returns for a few fixed rows, to notice what its sha256 cannot."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from drs_fast import ops
from drs_fast.core import PROBE_ROW, Rng, fingerprint
from drs_fast.gan import GAN
from drs_fast.store import Conflict

KEY = "probe_sha256"
ROWS = 8


def kept(gan: GAN, manifest: Mapping[str, Any]) -> dict[str, str | None]:
    """The probe for the manifest: of a new run its sha256, or null if two calls disagree.

    manifest: what it holds so far; a run that was begun without a probe continues without one.
    Raises Conflict if G and D now return other numbers than when the run was begun.
    """
    if "model_sha256" not in manifest:
        with _unchanged(gan):
            first, again = sha256(gan), sha256(gan)
        if first != again:
            warnings.warn(
                "G or D returned different numbers for the same rows on a second call (they draw "
                "random numbers, or their kernels add in varying order); if this run is resumed, "
                "extended or repaired, its bytes will differ; `drs-fast doctor` finds the cause",
                stacklevel=6,
            )
        return {KEY: first if first == again else None}
    if KEY not in manifest:
        return {}
    before = manifest[KEY]
    if before is not None:
        with _unchanged(gan):
            now = sha256(gan)
        if now != before:
            raise Conflict(
                f"G and D have the weights and code that this run was begun with ({KEY}: there "
                f"{before}, here {now}), but return other numbers for the same {ROWS} rows. Either "
                "PyTorch has another version, runs on other hardware or another number of threads, "
                "or tunes its kernels (torch.backends.cudnn.benchmark); or the model depends on "
                "something its sha256 cannot see, such as a file that forward reads. Resume on the "
                "original machine with the original versions and files, or choose another "
                "directory"
            )
    return {KEY: before}


def sha256(gan: GAN) -> str:
    """The sha256 of x and the logits of a few reserved rows, computed on the GAN's device."""
    z, y = ops.latents(gan, Rng(0, PROBE_ROW), ROWS), None
    if gan.labels is not None:
        y = torch.arange(ROWS, device=z.device) % gan.labels
    return fingerprint.sha256(*gan.logits(z, y))


@contextmanager
def _unchanged(gan: GAN) -> Iterator[None]:
    """Restores buffers that a call changes."""
    found = fingerprint.modules(gan.generator, gan.discriminator, gan.link)
    # TorchScript's inner modules can only be found through their outer one.
    modules = {id(module): module for outer in found for module in outer.modules()}
    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for module in modules.values()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    try:
        yield
    finally:
        with torch.inference_mode():
            for module, name, buffer, value in buffers:
                if module._buffers[name] is not buffer:
                    module._buffers[name] = buffer
                if not torch.equal(buffer, value):
                    buffer.copy_(value)
