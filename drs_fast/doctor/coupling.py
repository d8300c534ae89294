"""Whether G and D treat rows independently: what runs look at before burn-in, and the doctor says.

A row's result may not depend on the other rows of its call, or batches of another size give other
samples.
"""

from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from drs_fast import ops
from drs_fast.core import PROBE_ROW, Rng, fingerprint
from drs_fast.gan import GAN, classes, drawing, packed
from drs_fast.gan.packed import Group, Packed
from drs_fast.gan.row_noise import OWN
from drs_fast.gan.where import conditions, unconditioned

ROWS = 16  # in a call that looks for coupling; there are two of G and two of D
EVERY = 5  # row that is kept: members of a group are a power of two or a whole group apart
MORE = 128  # where a network refuses so few, such as one that judges groups of 64
COUPLED = (
    2.0**-14
)  # other rows may not move a row's value by more; of large values, by LAST of that
LAST = 2.0**-6  # of a value: with COUPLED, 16 units in the last place
NOISE = 16.0  # times what a second call moves: kernels that add in any order are no coupling
USUAL = 64  # samples in a training step, to name a number
COMPILED = "_orig_mod"  # where torch.compile keeps the module; to import its class takes seconds
Function = Callable[[Tensor, Tensor | None], Tensor]


class Coupled(NamedTuple):
    """A network whose rows depend on each other: what was seen, and how to fix it."""

    role: str
    seen: str
    remedy: str


def check(gan: GAN, differentiate: bool = False) -> None:
    """ValueError if G, D or decode couples the rows of a call; two calls of each, for 16 rows.

    differentiate: whether gradients will be asked for; then another call comes first, so that what
        G and D keep of it serves for them.
    """
    if differentiate:
        with suppress(ValueError):  # which is told where it takes so few rows too
            gan.on(block=min(ROWS, gan.block)).row(differentiate)
    found = look(gan)
    if found is None and gan.decode is not None:
        found = look_at_decode(gan)
    if found is not None:
        raise ValueError(
            f"{found.seen}, so batches of another size give other samples: {found.remedy}"
        )


def look(gan: GAN, rows: int = ROWS) -> Coupled | None:
    """What couples rows; None too if G or D fails, which whoever calls it next is told."""
    if conditions(gan):
        gan = unconditioned(gan)  # predicates are looked at when they are first called
    few = gan.unchanged().on(block=min(rows, gan.block), precision="fp32").changed(_uncompiled)
    n = few.block
    y = None
    if gan.labels is not None:
        y = classes.turns(gan.labels, gan.label_weights, 0, n).to(gan.device)
    with torch.random.fork_rng([gan.device] if gan.device.type == "cuda" else []):
        try:
            z = ops.latents(few, Rng(0, PROBE_ROW), n)
            x = few.samples(z, y)
        except ValueError:
            return None if rows == MORE else look(gan, MORE)
        change = beside(few.samples, z, y, x)
        if change > 0.0:
            return _found(few, "generator", change, z, y)
        if gan.discriminator is None:
            return None
        try:
            change = beside(few.scores, x, y)
        except ValueError:
            if rows < MORE and (found := look(gan, MORE)) is not None:
                return found
            given = (x,) if y is None else (x, y)
            return _grouped(packed.group_of(gan.discriminator, *given))
        return _found(few, "discriminator", change, x, y) if change > 0.0 else None


def look_at_decode(gan: GAN) -> Coupled | None:
    """What couples rows in `decode`, or draws random numbers there."""
    rng = Rng(0, PROBE_ROW)
    y = ops.labels(gan, rng, ROWS)
    x = gan.samples(ops.latents(gan, rng, ROWS), y)

    def decode(rows: Tensor, label: Tensor | None) -> Tensor:
        found = gan.decoded(rows)
        return found if isinstance(found, Tensor) else rows  # a run refuses it, and says why

    before = drawing.position(gan.device)
    change = beside(decode, x, None)
    if drawing.position(gan.device) != before and gan.noise != OWN:
        seen = "decode draws random numbers of its own, so samples could not be made again"
        return Coupled("decode", seen, "switch this off: eval(), or noise of a fixed value")
    if not change:
        return None
    seen = f"decode couples the rows of a call: one changes by {change:.2g} among others"
    return Coupled("decode", seen, remedy_of(gan.decode))


def beside(
    function: Function, rows: Tensor, y: Tensor | None, first: Tensor | None = None
) -> float:
    """How far rows move when others change around them; 0 if that is no more than rounding.

    first: what the function gave for these rows, if that is known.
    """
    first = function(rows, y) if first is None else first
    kept, mixed = _mixed(len(rows), rows.device)
    # In another place too: some add numbers to the rows of a call by their places.
    mixed = mixed.flip(0)
    around = function(rows[mixed], None if y is None else y[mixed]).flip(0)
    change = change_of(first[kept], around[kept])
    if change <= COUPLED:
        return 0.0
    again = change_of(first[kept], function(rows, y)[kept])
    return change if change > least(again) else 0.0


def least(again: float) -> float:
    """The least change that no rounding explains. again: the change in a second call."""
    return max(COUPLED, NOISE * again)


def change_of(before: Tensor, after: Tensor | None) -> float:
    """The largest change, relative to values above 64."""
    if after is None or after.shape != before.shape:
        return torch.inf
    if before.numel() == 0:
        return 0.0
    same = (before == after) | ((before != before) & (after != after))
    if not before.is_floating_point():
        return 0.0 if bool(same.all()) else torch.inf
    wide = before.detach().double()
    # Rounding is at most some units in the last place, also of large values.
    change = (wide - after.detach().double()).abs() / (wide.abs() * LAST).clamp(min=1.0)
    return float(torch.where(same, 0.0, change).nan_to_num(nan=torch.inf).max())


def remedy(gan: GAN, role: str, rows: Tensor, y: Tensor | None) -> str:
    """How to make rows independent. rows: some that differ, as the network takes them."""
    function = gan.generator if role == "generator" else gan.discriminator
    given = (gan.shaped(rows) if role == "generator" else rows, *(() if y is None else (y,)))
    norms = _norms(function)
    alone = remedy_of(function)
    if role == "generator":
        return alone
    assert function is not None
    found = packing(None if isinstance(function, Packed) else packed.group_of(function, *given))
    return f"{alone}; or {found}" if norms else found


def remedy_of(function: Any) -> str:
    """How a function itself can be made to treat rows independently."""
    norms = _norms(function)
    if not norms:
        return "take statistics over each row alone, not over the rows of a call"
    return (
        f"{', '.join(norms)} must normalise by what was learnt: train with "
        "track_running_stats=True, and call .eval()"
    )


def packing(group: Group | None) -> str:
    """The line that judges each row among fixed companions."""
    if group is None:
        return (
            f"GAN(..., pack={USUAL}, companions=real) judges each row among fixed companions, in a "
            f"call of its own, which is slow; in place of {USUAL}, give the number of samples that "
            "it was trained on in one step"
        )
    std = group.layout == packed.STRIDED and group.size == packed.STD_GROUP
    given = f'"{packed.MINIBATCH_STD}"' if std else str(group.size)
    return (
        f"GAN(..., pack={given}, companions=real) judges "
        f"each row among fixed companions, in groups of {group.size}"
    )


def _mixed(n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows that are kept, and all rows, with copies of row 0 in the place of the others."""
    numbers = torch.arange(n, device=device)
    kept = numbers % EVERY == 0
    return kept, torch.where(kept, numbers, 0)


def _found(gan: GAN, role: str, change: float, rows: Tensor, y: Tensor | None) -> Coupled:
    kind = _coupling(gan, role, rows, y)
    by = f" (by {kind})" if kind else ""
    seen = f"the {role} couples the rows of a call{by}: one changes by {change:.3g} among others"
    return Coupled(role, seen, remedy(gan, role, rows, y))


def _grouped(group: Group | None) -> Coupled | None:
    """What to say of a discriminator that fails on some numbers of rows, if groups are why."""
    if group is None or not (group.shared or group.size > packed.SIZES[0]):
        return None
    seen = f"the discriminator takes only groups of {group.size} rows"
    return Coupled("discriminator", seen, packing(group))


def _norms(function: Any) -> list[str]:
    """Kinds of the modules that normalise by the rows of each call."""
    return sorted(
        {
            type(module).__name__ + (" in train mode" if module.running_mean is not None else "")
            for module in fingerprint.modules(function)
            if isinstance(module, _BatchNorm) and (module.training or module.running_mean is None)
        }
    )


def _coupling(gan: GAN, role: str, rows: Tensor, y: Tensor | None) -> str:
    """The kind of the first module whose result moves although what it is given does not."""
    function = gan.generator if role == "generator" else gan.discriminator
    calls: list[list[tuple[nn.Module, Any, Any]]] = []

    def keep(module: nn.Module, given: tuple[Any, ...], result: Any) -> None:
        first = given[0] if given else None
        calls[-1].append((module, _copy(first, len(rows)), _copy(result, len(rows))))

    kept, mixed = _mixed(len(rows), rows.device)
    modules = [
        m for m in fingerprint.modules(function) if not isinstance(m, torch.jit.ScriptModule)
    ]
    with ExitStack() as hooks:
        for module in modules:
            hooks.callback(module.register_forward_hook(keep).remove)
        for chosen in (torch.arange(len(rows), device=rows.device), mixed):
            calls.append([])
            label = None if y is None else y[chosen]
            (gan.samples if role == "generator" else gan.scores)(rows[chosen], label)
    for (module, given, result), (_, given_then, result_then) in zip(*calls, strict=False):
        if result is None or given is None or given_then is None:
            continue
        still = change_of(given[kept], given_then[kept]) <= COUPLED
        if still and change_of(result[kept], result_then[kept]) > COUPLED:
            return type(module).__name__
    return ""


def _copy(value: Any, n: int) -> Tensor | None:
    """The value, if it has a row for each of n."""
    value = value[0] if isinstance(value, (tuple, list)) and value else value
    return value.clone() if isinstance(value, Tensor) and value.shape[:1] == (n,) else None


def _uncompiled(function: Any) -> Any:
    """What torch.compile was given, which need not be compiled for another number of rows."""
    if isinstance(function, nn.Module) and COMPILED in function._modules:
        return function._modules[COMPILED]
    return function
