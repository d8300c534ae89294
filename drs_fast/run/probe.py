"""What a model gives for a few fixed rows: it tells what no walk through the model finds."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch

from drs_fast import ops
from drs_fast.core import PROBE_ROW, Rng, fingerprint
from drs_fast.gan import GAN
from drs_fast.store import Conflict
from drs_fast.store.manifest import Manifest

KEY: Final = "probe_sha256"
ROWS = 8


def kept(gan: GAN, manifest: Manifest | None) -> dict[str, str | None]:
    """What the manifest of a run keeps: of a new run the probe, twice alike, or null.

    manifest: what is there so far, None of a new run; one that was begun without a probe goes on
        without one.
    Raises Conflict where G and D give other numbers than when the run was begun.
    """
    if manifest is None:
        with _unchanged(gan):
            first, again = sha256(gan), sha256(gan)
        if first != again:
            warnings.warn(
                "G or D gave other numbers for the same rows a second time (random numbers inside, "
                "or kernels that add in any order): if this run is interrupted, extended or "
                "repaired, its bytes will differ; `drs-fast doctor` looks for the cause",
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
                f"G and D have the weights and the code that this run was begun with ({KEY}: there "
                f"{before}, here {now}), but give other numbers for the same {ROWS} rows. Either "
                "PyTorch has another version, runs on other hardware or another number of threads, "
                "or tunes its kernels (torch.backends.cudnn.benchmark), or the model depends on "
                "something that its sha256 cannot see, such as a file that is read in forward. Go "
                "on with the machine, the versions and the files of the beginning, or choose "
                "another directory"
            )
    return {KEY: before}


def sha256(gan: GAN) -> str:
    """Of x and logits of a few rows that nothing else reaches, on the GAN's device."""
    z, y = ops.latents(gan, Rng(0, PROBE_ROW), ROWS), None
    if gan.labels is not None:
        y = torch.arange(ROWS, device=z.device) % gan.labels
    return fingerprint.sha256(*gan.logits(z, y))


@contextmanager
def _unchanged(gan: GAN) -> Iterator[None]:
    """Buffers that a call changes are put back."""
    found = fingerprint.modules(gan.generator, gan.discriminator, gan.link)
    # TorchScript's inner modules are found in their outer one alone.
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
