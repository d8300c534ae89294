"""Calls functions that a user gave, and checks what they return."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from drs_fast.core.arguments import describe
from drs_fast.core.sampler import those_that

ADVICE = {  # where a function other than the two networks fails
    "link": "a link maps scores (n,) to log ratios (n,)",
    "prior": "a prior maps normals (n, latent_dim) to latents (n, latent_dim)",
    "real": "real maps n to samples (n, ...), or with labels to (samples, y)",
}


def result(
    role: str, function: Callable[..., Any], given: tuple[Any, ...], advice: str, bf16: bool
) -> Any:
    """What the function returns; ValueError with the advice if it fails. bf16: under autocast."""
    try:
        if not bf16:
            return function(*given)
        with torch.autocast(given[0].device.type, torch.bfloat16, cache_enabled=False):
            return function(*given)
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # the user's code may raise anything
        found = ", ".join(describe(argument) for argument in given)
        raise ValueError(
            f"{role} failed on {found}: {type(error).__name__}: {error}; {advice}"
        ) from error


def alike(rows: Tensor, others: Tensor) -> bool:
    """Whether rows of both (n, ...) can be put in one tensor unchanged."""
    return (
        rows.shape[1:] == others.shape[1:]
        and rows.dtype == others.dtype
        and rows.device == others.device
    )


def dense(tensor: Tensor) -> bool:
    """Whether the tensor is a block of numbers in memory, and computes as one, in any subclass."""
    return (
        tensor.layout is torch.strided
        and not (tensor.is_nested or tensor.is_quantized or tensor.is_meta)
        and type(tensor).__torch_dispatch__ is Tensor.__torch_dispatch__
    )


def plain(role: str, value: Any) -> Any:
    """The value a user's function returned; ValueError if it is a tensor that is not dense."""
    if not isinstance(value, Tensor):
        return value
    if not dense(value):
        raise ValueError(
            f"{role} must return a dense tensor of numbers, got {describe(value)}; convert it, for "
            "example with to_dense(), dequantize(), to_padded_tensor(...) or full_tensor()"
        )
    return value if type(value) is Tensor else value.as_subclass(Tensor)


def one_per_sample(role: str, score: Any, n: int, device: torch.device) -> Tensor:
    """The scores (n,) a critic or link returned; ValueError unless one number per sample."""
    if isinstance(score, (tuple, list)) and score:
        score = score[0]
    score = plain(role, score)
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


def samples(made: Any, n: int) -> Tensor:
    """The samples (n, ...) that a generator returned; ValueError if they are something else."""
    made = plain("generator", made)
    if not isinstance(made, Tensor) or made.shape[:1] != (n,):
        raise ValueError(
            f"generator must return a tensor of {n} samples for {n} latents, got {describe(made)}"
        )
    return made


def latents(z: Any, normals: Tensor) -> Tensor:
    """The latents, like the normals, that a prior returned, float32; ValueError otherwise."""
    z = plain("prior", z)
    fits = isinstance(z, Tensor) and z.shape == normals.shape and z.device == normals.device
    if not fits or z.is_complex():
        raise ValueError(
            f"prior must map normals {describe(normals)} to latents of that shape, real "
            f"numbers on {normals.device}, got {describe(z)}"
        )
    return z.float()  # type: ignore[no-any-return]


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
