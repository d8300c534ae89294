"""Calls functions that a user gave; checks what they are given and what they return."""

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor

from drs_fast.core.arguments import describe, told
from drs_fast.core.errors import OutOfMemory, lacks_memory
from drs_fast.core.sampler import those_that
from drs_fast.core.tensors import plain

ADVICE = {  # where a function other than the two networks fails
    "link": "a link maps scores (n,) to log ratios (n,)",
    "prior": "a prior maps normals (n, latent_dim) to latents (n, latent_dim)",
    "real": "real maps n to samples (n, ...), or with labels to (samples, y)",
}
NO_CRITIC = (
    "this GAN has no discriminator; make one from real samples: gan = drs.density_ratio(gan), or "
    "drs.keep_train(gan, features=a function x -> (n, d))"
)
TUNED = "it ran as tune= says, and as it is it did not fail when the run began: leave tune out"
KEPT = (
    "it keeps a tensor of an earlier call, which was made without gradients: make it in __init__ "
    "instead (register_buffer), or use another process for the sampler that needs gradients"
)
FEWER = 4  # times fewer rows where memory was too small
OF_SHAPES = (RuntimeError, TypeError, ValueError, IndexError)  # what wrong shapes and dtypes raise


class Explained(ValueError):
    """What the user did wrong, told in full: no advice is to be added."""


def sizes(latent_dim: int, labels: int | None) -> str:
    """What to check where one of the two networks fails."""
    return (
        f"check latent_dim={latent_dim} and labels={labels} (the number of classes, for a "
        "class-conditional GAN)"
    )


def result(
    role: str, function: Callable[..., Any], given: tuple[Any, ...], advice: str, bf16: bool
) -> Any:
    """What the function returns, with bf16 under autocast.

    ValueError if it fails, with the advice if shapes may be the reason.
    """
    try:
        if not bf16:
            return function(*given)
        with torch.autocast(given[0].device.type, torch.bfloat16, cache_enabled=False):
            return function(*given)
    except Explained:
        raise
    except Exception as error:  # the user's code may raise anything
        found = ", ".join(describe(argument) for argument in given)
        if lacks_memory(error):
            _raise_memory(role, found, given, error)
        message = told(error)
        if "Inference tensors" in message:
            advice = KEPT
        advice = f"; {advice}" if type(error) in OF_SHAPES else ""
        raise ValueError(f"{role} failed on {found}: {message}{advice}") from error


def _raise_memory(role: str, found: str, given: tuple[Any, ...], error: Exception) -> NoReturn:
    """Says how many rows to give instead; the innermost function has said it already."""
    if isinstance(error, OutOfMemory) or not (given and isinstance(given[0], Tensor)):
        raise error
    rows = len(given[0])
    fewer = 1 << max(0, (rows // FEWER).bit_length() - 1)
    remedy = (
        f"call it on fewer rows: batch_size={fewer} (--batch-size {fewer}), or "
        f"GAN(..., block={fewer}) where there is no batch_size"
        if rows > 1
        else "a single row is too much: take a smaller model, or a device with more memory"
    )
    raise OutOfMemory(
        f"{role} ran out of memory on {found}; {remedy} ({told(error).splitlines()[0]})"
    ) from error


def check_callable(role: str, function: object) -> None:
    if not callable(function):
        raise ValueError(f"{role} must be callable, got {type(function).__name__}")


def check_latents(z: Tensor, latent_dim: int) -> None:
    z = plain("z", z, f"(n, {latent_dim})")
    if z.ndim != 2 or z.shape[1] != latent_dim:
        raise ValueError(f"z must be (n, {latent_dim}), got {describe(z)}")


def check_samples(x: Tensor) -> None:
    if not plain("x", x, "a tensor of samples (n, ...)").ndim:
        raise ValueError(f"x must be a tensor of samples (n, ...), got {describe(x)}")


def check_differentiable(rows: Tensor) -> None:
    if not (rows.is_floating_point() or rows.is_complex()):
        raise ValueError(f"gradients need floating-point numbers, got {describe(rows)}")


def alike(rows: Tensor, others: Tensor) -> bool:
    """Whether rows of both (n, ...) can be put in one tensor unchanged."""
    return (
        rows.shape[1:] == others.shape[1:]
        and rows.dtype == others.dtype
        and rows.device == others.device
    )


def check_alike(made: Tensor, before: Tensor, start: int) -> None:
    """ValueError unless a call's samples, from row `start` on, are like those of the first call."""
    if not alike(made, before):
        raise ValueError(
            "generator must return samples of one shape and dtype on one device, got "
            f"{describe(made[0])} {f'from row {start} on' if start else 'in this call'}, and "
            f"before that {describe(before[0])}; if you changed the generator itself, use gan.on()"
        )


def one_per_sample(role: str, score: Any, n: int, device: torch.device) -> Tensor:
    """The scores (n,) a critic or link returned; ValueError unless one number per sample."""
    if isinstance(score, (tuple, list)) and score:
        score = score[0]
    if isinstance(score, Tensor):
        score = plain(role, score, verb="return")
    if isinstance(score, dict):
        raise ValueError(
            f"{role} must return a tensor, got a dict of {sorted(map(str, score))}; wrap it: "
            'GAN(G, lambda x: D(x)["the key of its logit"], ...)'
        )
    fits = isinstance(score, Tensor) and score.shape[:1] == (n,) and score.numel() == n
    if isinstance(score, Tensor) and fits and score.is_floating_point():
        if score.device != device:
            raise ValueError(f"{role} must return its numbers on {device}, got {describe(score)}")
        return score if score.ndim == 1 else score.reshape(n)
    remedy = (
        "return real numbers before any rounding or comparison"
        if fits
        else "average over patches or classes in a wrapper, for example "
        "GAN(G, lambda x: D(x).mean(dim=(1, 2, 3)), ...)"
    )
    raise ValueError(
        f"{role} must return one floating-point number per sample, ({n},) or ({n}, 1), "
        f"got {describe(score)}; {remedy}"
    )


def samples(given: Any, n: int) -> Tensor:
    """The samples (n, ...) that a generator returned; ValueError if they are something else."""
    made = plain("generator", given, "a tensor of samples", "return")
    if made.shape[:1] != (n,):
        raise ValueError(
            f"generator must return a tensor of {n} samples for {n} latents, got {describe(made)}"
        )
    return made


def latents(given: Any, normals: Tensor) -> Tensor:
    """The latents, like the normals, that a prior returned, float32; ValueError otherwise."""
    z = plain("prior", given, "a tensor of latents", "return")
    fits = z.shape == normals.shape and z.device == normals.device
    if not fits or z.is_complex():
        raise ValueError(
            f"prior must map normals {describe(normals)} to latents of that shape, real "
            f"numbers on {normals.device}, got {describe(z)}"
        )
    return z.float()


def slope(logit: Tensor, leaf: Tensor) -> Tensor:
    """The gradient of every row's logit with respect to that row."""
    found = None
    if logit.requires_grad:
        (found,) = torch.autograd.grad(logit, leaf, torch.ones_like(logit), allow_unused=True)
    if found is None:
        raise ValueError(
            "the sampler follows the logit's gradient, but there is none: G or D is constant, or "
            "breaks the graph by detach, no_grad, integers or NumPy; make them differentiable, or "
            "use a sampler that needs no gradient "
            f"({those_that(lambda each: 'gradients' not in each.tallies)})"
        )
    return found
