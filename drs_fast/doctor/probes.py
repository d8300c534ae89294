"""Probes functions and modules: are rows independent, and does chance or a mode matter?"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.spectral_norm import SpectralNorm

from drs_fast.core import fingerprint
from drs_fast.core.rows import DOCTOR_ROW
from drs_fast.doctor import coupling
from drs_fast.doctor.coupling import change_of
from drs_fast.gan import GAN
from drs_fast.training.fitting import Draws

BLOCK = 256
ROUNDING = 2.0**-10  # relative rounding of TensorFloat32, the coarsest float32 arithmetic
LAG = 1.25  # sigma over the estimate in use; in training the estimate lags by a few percent


class Finding(NamedTuple):
    """Something wrong: its short name, what was seen, and how to fix it."""

    code: str
    seen: str
    remedy: str


def modules(gan: GAN) -> list[nn.Module]:
    """All modules that turn latents into logits."""
    return list(fingerprint.modules(*gan.functions))


class Record:
    """The modes and tensors of modules, to compare with later and to restore."""

    def __init__(self, found: list[nn.Module]) -> None:
        self.modes = [(module, module.training) for module in found]
        self.tensors = [
            (module, held, name, tensor, tensor.detach().clone())
            for module in found
            for held in _held(module)
            for name, tensor in held.items()
            if tensor is not None
        ]

    def switched(self) -> list[str]:
        """Kinds of the modules that are in train mode."""
        return sorted({type(module).__name__ for module, _ in self.modes if module.training})

    def changed(self) -> list[str]:
        """Names of the tensors whose values have changed."""
        return sorted(
            {
                f"{type(module).__name__}.{name}"
                for module, held, name, _, value in self.tensors
                if change_of(value, held.get(name)) > 0.0
            }
        )

    @torch.no_grad()
    def restore(self) -> None:
        for module, training in self.modes:
            module.training = training
        for _, held, name, tensor, value in self.tensors:
            held[name] = tensor
            if change_of(value, tensor) > 0.0:
                tensor.copy_(value)


def placement(found: list[nn.Module]) -> Iterator[Finding]:
    """Reports weights that have no numbers, or are not all on one device."""
    devices = {str(p.device) for module in found for p in module.parameters(recurse=False)}
    if "meta" in devices:
        yield Finding(
            "no-weights",
            "some parameters are on the device 'meta' and hold no numbers",
            "load the weights with load_state_dict(..., assign=True)",
        )
    elif len(devices) > 1:
        yield Finding(
            "devices",
            f"parameters are on {', '.join(sorted(devices))}",
            "move G and D to one device: gan.on('cuda')",
        )


def calls(record: Record, before: list[str]) -> Iterator[Finding]:
    """Reports what calls of G and D did to the modules' modes and tensors."""
    if before:
        yield Finding(
            "train-mode",
            f"in train mode: {', '.join(before)}",
            "call .eval() on G and D and keep them so; GAN(...) does it once, when it is built",
        )
    elif record.switched():
        yield Finding(
            "train-mode",
            f"a call switches to train mode: {', '.join(record.switched())}",
            "remove .train() from forward",
        )
    if record.changed():
        yield Finding(
            "changes-state",
            f"a call changes {', '.join(record.changed())}",
            "so a row's result depends on earlier calls: freeze these tensors",
        )


class Shifts(NamedTuple):
    """The largest change of a row's value when nothing about that row changed."""

    again: float  # in a second call
    companions: float  # with other rows around it
    place: float  # in another place among the same rows
    alone: float  # with zeros around it


def shifts(
    function: Callable[[Tensor, Tensor | None], Tensor],
    rows: tuple[Tensor, Tensor | None],
    others: tuple[Tensor, Tensor | None],
    draws: Draws,
) -> Shifts:
    """Tests a function (rows, labels) -> one value per row; rows and others are blocks alike."""
    x, y = rows
    order = draws.permutation(len(x)).to(x.device)
    kept = order % 2 == 0
    first = function(x, y)

    def beside(*around: Tensor | None) -> float:
        """Half of the rows stay in place; the other places are taken by these."""
        mixed = [
            None if own is None or other is None else torch.where(_like(kept, own), own, other)
            for own, other in zip(rows, around, strict=True)
        ]
        assert mixed[0] is not None
        return change_of(first[kept], function(mixed[0], mixed[1])[kept])

    # Statistics of two random blocks may be nearly alike; those of one row's copies are not.
    copies = (None if other is None else other[:1].expand_as(other) for other in others)
    return Shifts(
        again=change_of(first, function(x, y)),
        companions=max(beside(*others), beside(*copies)),
        place=change_of(first[order], function(x[order], None if y is None else y[order])),
        alone=change_of(first[:1], function(x[:1], None if y is None else y[:1])),
    )


def functions(gan: GAN, z: Tensor, y: Tensor | None, seed: int) -> Iterator[Finding]:
    """Whether G is a function of one latent and D one of a sample. z: two blocks."""
    draws, size = Draws(seed, DOCTOR_ROW), len(z) // 2
    labels = (None, None) if y is None else (y[:size], y[size:])
    x = gan.logits(z, y)[0]
    for role, function, rows in (
        ("generator", lambda z, y: gan.logits(z, y)[0], z),
        ("discriminator", gan.scores, x),
    ):
        found = shifts(function, (rows[:size], labels[0]), (rows[size:], labels[1]), draws)
        if found.again > ROUNDING:
            yield Finding(
                f"random-{role}",
                f"in a second call on the same rows, the {role} changes by {found.again:.3g}",
                "switch off its noise and dropout; for StyleGAN: noise_mode='const'; or build "
                "GAN(..., noise='rows'), which makes it a function of the row",
            )
        elif max(found) > ROUNDING or found.companions > coupling.least(found.again):
            depends = found.companions > coupling.least(found.again)
            yield Finding(
                f"coupled-{role}",
                f"a row changes by {found.companions:.3g} with other rows around it, "
                f"by {found.place:.3g} in another place, by {found.alone:.3g} among zeros",
                coupling.remedy(gan, role, rows[:size], labels[0])
                if depends
                else "it must be a function of one row, wherever in a call that is",
            )
    if y is not None and gan.labels is not None and gan.labels > 1:
        yield from _labels(gan, z[:size], x[:size], y[:size])


def _labels(gan: GAN, z: Tensor, x: Tensor, y: Tensor) -> Iterator[Finding]:
    assert gan.labels is not None
    other = (y + 1) % gan.labels
    for role, now, then in (
        ("generator", gan.logits(z, y)[0], gan.logits(z, other)[0]),
        ("discriminator", gan.scores(x, y), gan.scores(x, other)),
    ):
        if torch.equal(now, then):
            yield Finding(
                f"{role}-ignores-labels",
                f"the {role} returns the same for {len(y)} rows with other labels",
                "pass y on to the network, or build the GAN without labels",
            )


def in_place(gan: GAN, z: Tensor, x: Tensor, y: Tensor | None) -> Iterator[str]:
    """Notes on functions that write to their input."""
    labels = () if y is None else (y,)
    for role, function, rows in (
        ("generator", gan.generator, gan.shaped(z)),
        ("discriminator", gan.discriminator, x),
    ):
        if function is None:
            continue
        given = rows.clone()
        with torch.no_grad():
            function(given, *labels)
        if change_of(rows, given) > 0.0:
            yield (
                f"the {role} writes to its input. drs_fast gives it a copy, so nothing is wrong "
                "here; elsewhere give it a clone"
            )


def spectral_norms(found: list[nn.Module]) -> Iterator[Finding]:
    """Reports layers that are not divided by their largest singular value.

    In eval mode, a layer is divided by u^T W v with two stored vectors. These are right only after
    power iterations on the same weights. The true value is the root of the largest eigenvalue.
    """
    stale = [
        true / max(abs(used), 1e-30)
        for weight, u, v in _normalised(found)
        for used in [float(u @ weight @ v)]
        for true in [_sigma(weight)]
    ]
    wrong = [factor for factor in stale if factor > LAG]
    if wrong:
        yield Finding(
            "spectral-norm",
            f"{len(wrong)} of {len(stale)} spectrally normalised layers have a norm above 1, up to "
            f"{max(wrong):.3g}: their power iteration has not converged",
            "load the vectors u and v with the weights, or call D a hundred times in train mode",
        )


def _normalised(found: list[nn.Module]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(weight as a matrix, u, v) in float64 of every layer with PyTorch's spectral norm."""
    for module in found:
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, SpectralNorm):
                parts = [getattr(module, f"{hook.name}_{part}") for part in ("orig", "u", "v")]
                matrix = hook.reshape_weight_to_matrix(parts[0])
                yield matrix.detach().double(), parts[1].double(), parts[2].double()
        if isinstance(module, ParametrizationList):
            weight = module.original
            for part in module:
                if isinstance(part, _SpectralNorm) and weight.ndim > 1:
                    matrix = part._reshape_weight_to_matrix(weight)
                    yield matrix.detach().double(), part._u.double(), part._v.double()


def _held(module: nn.Module) -> tuple[dict[str, Any], ...]:
    return module._parameters, module._buffers


def _sigma(matrix: Tensor) -> float:
    gram = matrix @ matrix.T if len(matrix) <= matrix.shape[1] else matrix.T @ matrix
    return float(torch.linalg.eigvalsh(gram)[-1].clamp(min=0.0).sqrt())


def _like(mask: Tensor, rows: Tensor) -> Tensor:
    return mask.view(-1, *[1] * (rows.ndim - 1))
