"""The loops to compare, ours and what people write, on the same G and D."""

import contextlib
import dataclasses
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

import drs_fast as drs
from benchmarks.common import gans
from drs_fast.gan.precision import arithmetic
from drs_fast.run import pages

PRECISION = {"cpu": "fp32", "cuda": "tf32"}  # PyTorch's default for convolutions on a GPU
EPS = 1e-6
ACCEPTANCE = 0.2
MODELS: dict[str, Callable[[], drs.GAN]] = {
    "25gaussians": lambda: drs.load("25gaussians"),
    "digits": lambda: drs.load("digits"),
    "MLP": gans.mlp,
    "DCGAN 32x32": gans.dcgan,
    "SAGAN 128x128": gans.sagan,
    "SAGAN 128x128, width 8": lambda: gans.sagan(8),
    "MLP, width 16": lambda: gans.mlp(16),
}
OURS, TO_DISK, CALLED = "drs_fast", "drs_fast to disk", "drs_fast without a graph"
PLAIN, PLAIN_TO_DISK, NUMPY = "plain PyTorch", "plain PyTorch to disk", "logits to NumPy, list"
LIMIT, KEPT = "limit: G and D alone", "limit, freed pages kept"


class Differs(Exception):
    """A loop whose samples differ from the reference's; it gets no figure."""


@dataclass(frozen=True)
class Problem:
    name: str
    gan: drs.GAN
    batch: int
    sampler: drs.samplers.DRS  # with log_m and gamma fixed
    log_m: float
    gamma: float
    z: Tensor  # of one batch
    steps: int
    n: int  # samples accepted in these steps

    @staticmethod
    def of(
        name: str, batch: int, log_m: float, gamma: float, steps: int, n: int, device: str = "cpu"
    ) -> "Problem":
        gan = MODELS[name]().on(device, batch, PRECISION[torch.device(device).type])
        sampler = drs.samplers.DRS(log_m=log_m, gamma=gamma, burn_in=128)
        z = drs.ops.latents(gan, drs.Rng(0), batch)
        return Problem(name, gan, batch, sampler, log_m, gamma, z, steps, n)

    @property
    def device(self) -> torch.device:
        return self.gan.device

    def arithmetic(self) -> contextlib.AbstractContextManager[None]:
        return arithmetic(self.gan.precision, self.device)


def problem(name: str, batch: int, device: str, seconds: float) -> Problem:
    """Steps for about this many seconds, and thresholds that accept a fifth."""
    gan = MODELS[name]().on(device, batch, PRECISION[torch.device(device).type])
    found = drs.samplers.DRS(target_acceptance=ACCEPTANCE).init(gan, drs.Rng(0))
    log_m, gamma = float(found.log_m), float(found.gamma)
    p = Problem.of(name, batch, log_m, gamma, 3, 0, device)
    alone(p)
    with pages.kept():
        step = min(timed(lambda: alone(p), p.device) for _ in range(5)) / p.steps
    steps = max(2, round(seconds / step))
    n = 0
    for row in range(0, steps * batch, batch):
        rng = drs.Rng(0, row)
        logit = gan.logits(drs.ops.latents(gan, rng, batch))[1]
        n += int(drs.ops.accept(logit, rng, log_m=log_m, gamma=gamma, eps=EPS).sum())
    return dataclasses.replace(p, steps=steps, n=n)


def alone(p: Problem) -> None:
    with torch.inference_mode(), p.arithmetic():
        for _ in range(p.steps):
            p.gan.discriminator(p.gan.generator(p.z))


def ours(p: Problem, **options: Any) -> drs.Batch:
    return drs.generate(p.gan, p.sampler, p.n, **_given(p), **options)


def _given(p: Problem) -> dict[str, Any]:
    return {"batch_size": p.batch, "precision": p.gan.precision}


def ours_to_disk(p: Problem) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        return drs.generate(p.gan, p.sampler, p.n, **_given(p), out=f"{folder}/run")


def plain(p: Problem) -> tuple[Tensor, Tensor]:
    """What people write: a mask, and a list of accepted rows."""
    x, logit = [], []
    with torch.inference_mode(), p.arithmetic():
        for _ in range(p.steps):
            z = torch.randn(p.batch, p.gan.latent_dim, device=p.device)
            made = p.gan.generator(z)
            score = p.gan.discriminator(made).reshape(-1)
            keep = torch.rand_like(score) < torch.sigmoid(_shifted(p, score))
            x.append(made[keep])
            logit.append(score[keep])
    return torch.cat(x), torch.cat(logit)


def plain_to_disk(p: Problem) -> None:
    x, logit = plain(p)
    with tempfile.TemporaryDirectory() as folder:
        torch.save({"x": x.cpu(), "logit": logit.cpu()}, f"{folder}/run.pt")


def _shifted(p: Problem, logit: Tensor) -> Tensor:
    d = logit - p.log_m
    return d - torch.log(1 - torch.exp(d - EPS)) - p.gamma


def numpy_list(p: Problem) -> list[Any]:
    """As in published rejection samplers: decisions in NumPy, images one by one."""
    images: list[Any] = []
    generator = np.random.default_rng(0)
    with torch.inference_mode(), p.arithmetic():
        for _ in range(p.steps):
            z = torch.randn(p.batch, p.gan.latent_dim, device=p.device)
            made = p.gan.generator(z)
            logit = p.gan.discriminator(made).reshape(-1).cpu().numpy().astype(np.float64)
            d = np.minimum(logit - p.log_m, 0.0)
            f = d - np.log(1 - np.exp(d - EPS)) - p.gamma
            keep = generator.random(len(logit)) < 1 / (1 + np.exp(-f))
            x = made.cpu().numpy()
            images += [x[i] for i in np.flatnonzero(keep)]
    return images


def check(p: Problem) -> None:
    """Compares the samples of all our loops with the reference's decisions on equal logits."""
    kept: dict[str, list[Tensor]] = {"ids": [], "x": []}
    for row in range(0, p.steps * p.batch, p.batch):
        rng = drs.Rng(0, row)
        x, logit = p.gan.logits(drs.ops.latents(p.gan, rng, p.batch))
        with drs.backend("reference"):
            keep = drs.ops.accept(logit, rng, log_m=p.log_m, gamma=p.gamma, eps=EPS)
        kept["x"].append(x[keep])
        kept["ids"].append(keep.nonzero()[:, 0] + row)
    ids, x = torch.cat(kept["ids"]), torch.cat(kept["x"])
    ways = {OURS: ours(p)}
    if p.device.type == "cuda":
        ways[CALLED] = ours(p, cuda_graph=False)
    for name, batch in ways.items():
        if not (torch.equal(batch.ids, ids) and torch.equal(batch.x, x)):
            raise Differs(f"{name}: other samples than the reference's")


def timed(call: Callable[[], Any], device: torch.device) -> float:
    """Seconds, until the device is done."""
    _wait(device)
    start = time.perf_counter()
    call()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _kept(p: Problem) -> None:
    with pages.kept():
        alone(p)


# Loops that are compared stand side by side.
WAYS: dict[str, Callable[[Problem], Any]] = {
    LIMIT: alone,
    OURS: ours,
    PLAIN: plain,
    PLAIN_TO_DISK: plain_to_disk,
    TO_DISK: ours_to_disk,
    KEPT: _kept,
    CALLED: lambda p: ours(p, cuda_graph=False),
    NUMPY: numpy_list,
}
