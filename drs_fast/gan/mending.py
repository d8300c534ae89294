"""What to type where G or D is called in another way than drs.GAN does, or returns something else.

Where a call fails, other ways to call are tried on a few rows, so that what is advised works.
"""

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from drs_fast.gan import results
from drs_fast.gan.wrapped import Unfit, Wrapped, line

LETTERS = {"generator": "G", "discriminator": "D"}
ROWS = 4  # to try other calls on
MOST_NUMBERS, LARGEST_NUMBER = 6, 2**16  # of an error's message that are tried as latent_dim
NO_SUCH_LABEL = "index out of range"
FIRST = {"output": "0"}  # which a wrap takes anyway
MISSING = re.compile(r"missing (?:\d+ required|value for).*?'(\w+)'")
KEPT = (
    "it keeps a tensor of an earlier call, which was made without gradients: make it in __init__ "
    "instead (register_buffer), or use another process for the sampler that needs gradients"
)


class Takes(NamedTuple):
    """What a GAN gives its networks."""

    latent_dim: int
    latent_shape: tuple[int, ...] | None
    labels: int | None

    @property
    def check(self) -> str:
        """What to check where nothing else is known."""
        latents = f"latent_dim={self.latent_dim}"
        if self.latent_shape is not None:
            latents = f"latent_shape={self.latent_shape}"
        return (
            f"check {latents} and labels={self.labels} (the number of classes, for a "
            "class-conditional GAN)"
        )

    def call(self, role: str) -> str:
        """The call of G or D."""
        return f"{LETTERS[role]}({_rows(role)}{'' if self.labels is None else ', y'})"


def wrapping(role: str, function: Callable[..., Any] | None, options: dict[str, str]) -> str:
    """The line of drs.wrap with these options, and those that the function is wrapped with."""
    letter = LETTERS[role]
    own = function.written(letter) if isinstance(function, Wrapped) else {}
    return line(letter, own | options)


def refused(
    role: str, function: Callable[..., Any], given: tuple[Tensor, ...], message: str, takes: Takes
) -> str:
    """What to do where the function failed on these rows [and labels] with this message."""
    if "Inference tensors" in message:
        return KEPT
    if NO_SUCH_LABEL in message and takes.labels is not None:
        return takes.check
    rows = tuple(tensor[:ROWS].detach().clone() for tensor in given)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        found = _tried(role, function, rows, message, takes)
    labelled = "" if takes.labels is None else f"with labels={takes.labels} "
    if found is not None:
        return f"{labelled}it is called {takes.call(role)}; this works: {found}"
    missing = MISSING.search(message)
    if missing is not None and takes.labels is None:
        return _of_label(role, function, rows[0], missing[1])
    if missing is not None:
        return (
            f"{labelled}it is called {takes.call(role)}; give it what it lacks: "
            f"{line(LETTERS[role], {missing[1]: '...'})}"
        )
    return f"{takes.check}; it is called {takes.call(role)}, and drs.wrap makes other calls of it"


def _rows(role: str) -> str:
    return "z" if role == "generator" else "x"


def _tried(
    role: str, function: Callable[..., Any], rows: tuple[Tensor, ...], message: str, takes: Takes
) -> str | None:
    """The first other call that works, as it is written."""
    is_generator, forms = role == "generator", [("", rows[0])]
    if is_generator:
        forms += _forms(rows[0], takes)
    for options in _labellings(function, takes):
        for form, given in forms:
            for more in ({}, {"listed": True}):
                changed = options | more
                if form or changed:
                    written = _working(role, function, (given, *rows[1:]), changed, takes)
                    if written is not None:
                        return _line(role, written, form, takes)
    for form, given in _widths(rows[0], message) if is_generator else ():
        written = _working(role, function, (given, *rows[1:]), {}, takes)
        if written is not None:
            return _line(role, written, form, takes)
    return None


def _line(role: str, written: dict[str, str], form: str, takes: Takes) -> str:
    wrapped = line(LETTERS[role], written) if written else ""
    if not form:
        return wrapped
    instead = "latent_dim" if takes.latent_shape is None else "latent_shape"
    instead = "" if form.startswith(f"{instead}=") else f" in place of {instead}"
    return (
        f"{wrapped}, with GAN(..., {form}){instead}" if written else f"GAN(G, D, {form}){instead}"
    )


def _forms(z: Tensor, takes: Takes) -> Iterator[tuple[str, Tensor]]:
    """Other shapes of latents."""
    d = takes.latent_dim
    if takes.latent_shape is not None:
        yield f"latent_dim={d}", z.reshape(len(z), d)
        return
    for shape in ((d, 1, 1), (d, 1, 1, 1), (d, 1), (1, d)):
        yield f"latent_shape={shape}", z.reshape(len(z), *shape)


def _widths(z: Tensor, message: str) -> Iterator[tuple[str, Tensor]]:
    """Other numbers of latents, which the message may tell."""
    numbers = [number for number in map(int, re.findall(r"\d{1,5}", message)) if number > 1]
    for number in list(dict.fromkeys(numbers))[:MOST_NUMBERS]:
        if number <= LARGEST_NUMBER and number != z.shape[1]:
            yield f"latent_dim={number}", z.new_zeros(len(z), number)
            yield f"latent_shape={(number, 1, 1)}", z.new_zeros(len(z), number, 1, 1)


def _labellings(function: Callable[..., Any], takes: Takes) -> Iterator[dict[str, Any]]:
    """Other ways to give labels, after the one that there is."""
    yield {}
    if takes.labels is None:
        return
    module = function.module if isinstance(function, Wrapped) else function
    if isinstance(module, nn.Module) and not isinstance(module, torch.jit.ScriptModule):
        for part in module.children():
            if isinstance(part, nn.Embedding):
                yield {"embed": part}
    yield {"labels": "onehot", "classes": takes.labels}
    yield {"labels": "none"}


def _working(
    role: str,
    function: Callable[..., Any],
    given: tuple[Tensor, ...],
    options: dict[str, Any],
    takes: Takes,
) -> dict[str, str] | None:
    """The options of a wrap that works, as they are written; None if it fails."""
    more: Mapping[str, str] | None
    try:
        if isinstance(function, Wrapped):
            wrapped = function.with_options(options)
        else:
            wrapped = Wrapped(function, options)
        result, n = wrapped.result(*(tensor.clone() for tensor in given)), len(given[0])
        if wrapped.output is not None or wrapped.reduce is not None:
            result = wrapped.made(result, n, *given[1:])
        if role == "generator":
            more = results.samples(result, n)
            if more == FIRST and wrapped.output is None:
                more = {}
        else:
            more = results.score(result, n, takes.labels)
    except Unfit as error:
        more = error.options
    except Exception:  # the user's code may raise anything
        return None
    return None if more is None else {**wrapped.written(LETTERS[role]), **more}


def _of_label(role: str, function: Callable[..., Any], rows: Tensor, name: str) -> str:
    """What to do where the function lacks an argument, which may be a label."""
    letter = LETTERS[role]
    without = f"give it otherwise: {line(letter, {name: '...'})}"
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        none = _working(role, function, (rows,), {"args": (None,)}, Takes(1, None, None))
    if none is not None:
        without = f"without classes {line(letter, none)}"
    return (
        f"for a class-conditional GAN give the number of classes K, GAN(..., labels=K), and it is "
        f"called {letter}({_rows(role)}, y); or {without}"
    )
