"""A GAN of linear maps whose gradient samplers have variances in closed form.

G(z) = z under a normal prior and p_data = N(0, VARIANCE I): the logit is -|z|^2 SLOPE / 2, and the
target p0 exp(logit) is N(0, VARIANCE I). The coordinates are independent copies.
"""

import math

import torch

import drs_fast as drs

VARIANCE = 0.25
SLOPE = 1 / VARIANCE - 1


def logit(x):
    return x.square().flatten(1).sum(dim=1) * (-SLOPE / 2)


def gan(d=1, **fields):
    return drs.GAN(torch.clone, logit, d, block=2**14, **fields)


def steps(sampler, model, n, seed=0, row=0):
    """The sampler's step from the rows on, after its burn-in."""
    rng = drs.Rng(seed, row)
    state = sampler.init(model, drs.Rng(seed))
    y = drs.ops.labels(model, rng, n)
    return sampler.step(model, state, drs.ops.latents(model, rng, n), y, rng)[1]


def deviation(values, variance):
    """How far the mean square of independent normals lies from the variance, in sd."""
    n = values.numel()
    return float(values.double().square().mean() / variance - 1) / math.sqrt(2 / n)


def same(batch, other):
    """Whether two batches hold the same bytes."""
    a, b = int(batch.count), int(other.count)
    pairs = [(getattr(batch, name), getattr(other, name)) for name in ("x", "z", "logit", "ids")]
    return a == b and all(
        p[:a].contiguous().numpy().tobytes() == q[:b].contiguous().numpy().tobytes()
        for p, q in pairs
    )


def joined(batches):
    """Batches of consecutive rows as one."""
    counts = [int(batch.count) for batch in batches]
    rows = {
        name: torch.cat([getattr(b, name)[:c] for b, c in zip(batches, counts, strict=True)])
        for name in ("x", "z", "logit", "ids")
    }
    return drs.Batch(**rows, y=None, count=torch.tensor(sum(counts)), stats={})


def cut(sampler, model, sizes):
    """The rows 0, 1, ... in steps of these sizes, as one batch."""
    state, row, batches = sampler.init(model, drs.Rng(0)), 0, []
    for size in sizes:
        rng = drs.Rng(0, row)
        z, y = drs.ops.latents(model, rng, size), drs.ops.labels(model, rng, size)
        batches.append(sampler.step(model, state, z, y, rng)[1])
        row += size
    return joined(batches)


def curved(d=5, **fields):
    """A GAN that is neither linear nor symmetric; every row is computed by itself."""

    def critic(x):
        return 1.5 * x[:, 0].sin() - 0.7 * x[:, 1].square() + 0.2 * x[:, 0] * x[:, d - 1]

    return drs.GAN(lambda z: z + 0.1 * z.square(), critic, d, **fields)


def broken(bad, value, d=2):
    """The linear GAN, with another logit where `bad` holds of x, and no way back from there."""

    def critic(x):
        return torch.where(bad(x), value, logit(x))

    return drs.GAN(torch.clone, critic, d)
