"""Calls functions that a user gave; checks what they are given and what they return."""

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor

from drs_fast.core.arguments import describe, told
from drs_fast.core.out_of_memory import OutOfMemory, lacks_memory
from drs_fast.core.sampler import those_that
from drs_fast.core.tensors import plain
from drs_fast.core.words import counted
from drs_fast.gan import mending, results
from drs_fast.gan.around import Around
from drs_fast.gan.precision import AUTOCAST
from drs_fast.gan.wrapped import Unfit, Wrapped, line

ADVICE = {  # where a function other than the two networks fails
    "link": "a link maps scores (n,) to log ratios (n,)",
    "prior": "a prior maps normals (n, latent_dim) to latents (n, latent_dim)",
    "decode": "decode maps samples (n, ...) to what is kept of them, row by row",
    "real": "real maps n to samples (n, ...), or with labels to (samples, y)",
}
NO_CRITIC = (
    "this GAN has no discriminator; make one from real samples: gan = drs.density_ratio(gan), or "
    "drs.keep_train(gan, features=a function x -> (n, d))"
)
TUNED = "it ran as tune= says, and as it is it did not fail when the run began: leave tune out"
FEWER = 4  # times fewer rows where memory was too small
# What wrong shapes and dtypes raise.
OF_SHAPES = (RuntimeError, TypeError, ValueError, IndexError, AssertionError)


class Refused(ValueError):
    """What a user's function did wrong, with its role and the remedy."""


def result(
    role: str,
    function: Callable[..., Any],
    given: tuple[Any, ...],
    advice: str | mending.Takes,
    precision: str,
) -> Any:
    """What the function returns, in half precision under autocast.

    Refused if it fails, with the advice if shapes may be the reason; for G and D, given what the
    GAN gives them, it is the call that works.
    """
    try:
        if precision not in AUTOCAST:
            return function(*given)
        kind, dtype = given[0].device.type, AUTOCAST[precision]
        with torch.autocast(kind, dtype, cache_enabled=False):
            return function(*given)
    except Refused:
        raise
    except Unfit as error:
        mended = line(mending.LETTERS.get(role, "module"), error.options)
        raise Refused(f"{role} {error.seen}; {mended}") from None
    except Exception as error:  # the user's code may raise anything
        found = ", ".join(describe(argument) for argument in given)
        if lacks_memory(error):
            _raise_memory(role, found, given, error)
        message, remedy = told(error), ""
        if type(error) in OF_SHAPES:
            if isinstance(advice, mending.Takes):
                advice = mending.refused(role, function, given, message, advice)
            remedy = f"; {advice}"
        raise Refused(f"{role} failed on {found}: {message}{remedy}") from error


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


def check_classes(role: str, function: Callable[..., Any] | None, labels: int | None) -> None:
    """ValueError if it is wrapped for another number of classes than the GAN has."""
    while isinstance(function, Around):
        if isinstance(function, Wrapped) and function.classes not in (None, labels):
            raise ValueError(
                f"the {role} is wrapped for classes={function.classes}, but the GAN has "
                f"labels={labels}; give both the number that the {role} was trained with"
            )
        function = function.inner


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


def one_per_sample(
    role: str,
    score: Any,
    n: int,
    device: torch.device,
    function: Callable[..., Any] | None = None,
    labels: int | None = None,
) -> Tensor:
    """The scores (n,) a critic or link returned; Refused unless one number per sample.

    function: the critic, and labels: how many there are, for the remedy.
    """
    whole, found = score, score[0] if isinstance(score, (tuple, list)) and score else score
    if isinstance(found, Tensor):
        found = plain(role, found, verb="return")
        if found.shape[:1] == (n,) and found.numel() == n and found.is_floating_point():
            if found.device != device:
                raise Refused(f"{role} must return its numbers on {device}, got {describe(found)}")
            return found if found.ndim == 1 else found.reshape(n)
    raise Refused(
        f"{role} must return one floating-point number per sample, ({n},) or ({n}, 1), "
        f"got {results.described(whole)}; {_remedy(role, whole, found, n, function, labels)}"
    )


def _remedy(
    role: str,
    whole: Any,
    found: Any,
    n: int,
    function: Callable[..., Any] | None,
    labels: int | None,
) -> str:
    if isinstance(found, Tensor) and not found.is_floating_point():
        return "return real numbers before any rounding or comparison"
    if isinstance(found, Tensor) and 1 < found.numel() < n and n % found.numel() == 0:
        return (
            "if it judges several samples together, say how many, for example "
            f"GAN(G, D, ..., pack={n // found.numel()}, companions=real)"
        )
    options = results.score(whole, n, labels) if role in mending.LETTERS else None
    if options:
        return mending.wrapping(role, function, options)
    if isinstance(found, Tensor) and found.shape[:1] != (n,):
        return "return a number for each row of its input, without a mean or sum over the rows"
    if role not in mending.LETTERS:
        return ADVICE[role]
    chosen = {"output": "lambda result: ..."}
    return f"choose what counts of it: {mending.wrapping(role, function, chosen)}"


def samples(given: Any, n: int, function: Callable[..., Any] | None = None) -> Tensor:
    """The samples (n, ...) that a generator returned; ValueError if they are something else."""
    options = None if isinstance(given, Tensor) else results.samples(given, n)
    if options:
        raise Refused(
            f"generator must return a tensor of samples, got {results.described(given)}; "
            f"{mending.wrapping('generator', function, options)}"
        )
    made = plain("generator", given, "a tensor of samples", "return")
    if made.shape[:1] != (n,):
        raise Refused(
            f"generator must return a tensor of {counted(n, 'sample')} for "
            f"{counted(n, 'latent')}, got {describe(made)}"
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
