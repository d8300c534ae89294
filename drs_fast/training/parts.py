"""Finds the part of a critic whose input, or output, are features to learn a density ratio from."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from drs_fast.core import fingerprint
from drs_fast.gan import GAN, calls
from drs_fast.gan.packed import Packed
from drs_fast.gan.precision import FP32

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
PROBED = 128  # rows in the call that finds what couples them
SAME = 2.0**-14  # of the largest number: kernels of one shape move a row's numbers by less


class Ran(NamedTuple):
    """A part that a call of the critic ran, with its first input and output; None if no tensor.

    direct: whether both are its first argument and all that it returned.
    """

    part: nn.Module
    given: Tensor | None
    returned: Tensor | None
    direct: bool


class Found(NamedTuple):
    """A part whose input (before) or output are the features, and why."""

    part: nn.Module
    before: bool
    why: str
    direct: bool


def tensor_of(value: Any) -> Tensor | None:
    """The tensor, or the first of several."""
    if isinstance(value, (tuple, list)) and value:
        value = value[0]
    return value if isinstance(value, Tensor) else None


@contextmanager
def watched(critic: Callable[..., Any], only: tuple[nn.Module, ...] = ()) -> Iterator[list[Ran]]:
    """Lists the parts of the critic, or these alone, in the order in which they return."""
    ran: list[Ran] = []

    def keep(part: nn.Module, given: tuple[Any, ...], named: dict[str, Any], returned: Any) -> None:
        first, result = tensor_of((*given, *named.values())), tensor_of(returned)
        direct = bool(given) and first is given[0] and result is returned
        # Copies, because the next layer may change them in place.
        ran.append(Ran(part, _copy(first), _copy(result), direct))

    hooks = [
        part.register_forward_hook(keep, with_kwargs=True)
        for part in only or dict.fromkeys(fingerprint.modules(critic))
        if not isinstance(part, torch.jit.ScriptModule)
    ]
    try:
        yield ran
    finally:
        for hook in hooks:  # a hook that stayed would change the GAN's sha256
            hook.remove()


def last_layer(gan: GAN, rows: tuple[Tensor, ...]) -> Found | None:
    """The last part with weights if its output is the score, else the last Linear or Conv."""
    scores: list[Tensor] = []
    recorder = copy.copy(gan)

    def recording(score: Tensor) -> Tensor:
        scores.append(score.detach().clone())
        return torch.zeros_like(score)

    recorder.link = recording
    critic, given = inside(gan.discriminator or recording), [row[: gan.block] for row in rows]
    with watched(critic) as ran:
        recorder.scores(*given)
    score = scores[-1]
    with watched(critic) as again:  # what does not change with the samples sees only their labels
        recorder.scores(1 - given[0], *given[1:])
    pairs, parts = list(zip(ran, again, strict=False)), {one.part for one in ran}
    for one, other in reversed(pairs):
        if one.part is critic and one.returned is not None:  # of the call whose parts follow here
            score = one.returned.flatten()
        if _last(one.part, parts) and _is(one.returned, score) and _differ(one.given, other.given):
            return Found(one.part, True, "whose output is the score", one.direct)
    seen = [one for one, other in pairs if _differ(one.given, other.given)]
    layers = [one for one in seen if isinstance(one.part, LAYERS)]
    if not layers:
        return None
    return Found(layers[-1].part, True, "the last layer", layers[-1].direct)


def inside(critic: Callable[..., Any]) -> Callable[..., Any]:
    """What judges the samples, of a critic that puts them among companions."""
    return critic.discriminator if isinstance(critic, Packed) else critic


def before_coupling(gan: GAN, rows: tuple[Tensor, ...], others: tuple[Tensor, ...]) -> Found:
    """What a critic computes last of each row alone; ValueError if it couples no rows.

    rows, others: real and generated samples with the same labels; the first row is judged among
        each of them.
    """
    if gan.discriminator is None:
        raise ValueError(calls.NO_CRITIC)
    critic = inside(gan.discriminator)
    chosen = torch.arange(PROBED, device=rows[0].device) % len(rows[0])
    seen: list[list[Ran]] = []
    for companions in (rows, others):
        given = [each[chosen] for each in companions]
        given[0] = torch.cat([rows[0][:1], given[0][1:]])
        with torch.no_grad(), watched(critic) as ran:
            calls.result("discriminator", critic, tuple(given), gan.takes, FP32)
        seen.append(ran)
    alone = None
    for one, other in zip(*seen, strict=False):
        if not _alike(one.returned, other.returned):
            if _alike(one.given, other.given) and one.given is not None:
                return Found(one.part, True, "which couples rows", one.direct)
            break
        if one.returned is not None and len(one.returned) == PROBED:
            alone = Found(one.part, False, "the last before rows are coupled", one.direct)
    else:
        raise ValueError(
            "features='before-minibatch-std', but no part of the discriminator couples rows: the "
            "score of a sample is the same beside any others; leave features out"
        )
    if alone is None:
        raise ValueError(
            "features='before-minibatch-std', but the discriminator couples rows before any part "
            "of it has judged one alone; pass features=a function x -> (n, d)"
        )
    return alone


def _copy(value: Tensor | None) -> Tensor | None:
    return None if value is None else value.detach().clone()


def _last(part: nn.Module, ran: set[nn.Module]) -> bool:
    """Whether it computes with weights of its own, and no part within it that ran does."""
    inner = [
        each
        for each in part.modules()
        if each is not part and each in ran and not isinstance(each, ParametrizationList)
    ]
    return any(True for _ in part.parameters()) and not any(
        True for each in inner for _ in each.parameters()
    )


def _differ(one: Tensor | None, other: Tensor | None) -> bool:
    return (
        one is not None
        and other is not None
        and not (one.shape == other.shape and torch.equal(one, other))
    )


def _is(returned: Tensor | None, score: Tensor) -> bool:
    return (
        returned is not None
        and returned.numel() == score.numel()
        and torch.equal(returned.flatten().to(score.dtype), score)
    )


def _alike(one: Tensor | None, other: Tensor | None) -> bool:
    """Whether the first row is the same; True for what is not computed row by row."""
    if one is None or other is None or one.shape != other.shape or len(one) != PROBED:
        return True
    a, b = one[0].double(), other[0].double()
    return bool((a - b).abs().max() <= SAME * max(1e-30, float(a.abs().max())))
