"""Random numbers that G or D draws itself, as a function of the row.

While the module runs, PyTorch's random operators give numbers of `drs_fast.ops` in place of their
own. They are named by a hash of the row that the module was given, and by how many the call has
drawn before. So a row has the same noise in every block, and wherever it is made again.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from drs_fast.core import HIDDEN
from drs_fast.core.arguments import one_of
from drs_fast.gan import drawing
from drs_fast.gan.around import Around

ROWS, OWN = NOISES = "rows", "own"
SEEDS = {"generator": 0, "discriminator": 1}  # where x = z, their noise differs
FACTORS_SEED = 2
COLUMNS = 128  # hashed at once, so that products stay in the cache
MASK = 0xFFFFFFFF
HALF = MASK >> 1
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int32}  # by bytes
BITS = {torch.float16: 11, torch.bfloat16: 8, torch.float32: 24}  # of a uniform below 1
# In inference mode these arrive whole, as calls of others that draw.
COMPOSED = (
    "dropout_", "feature_dropout", "feature_dropout_", "alpha_dropout", "alpha_dropout_",
    "feature_alpha_dropout", "feature_alpha_dropout_", "rrelu", "rrelu_",
)  # fmt: skip


class NotByRow(ValueError):
    """Noise that cannot be made a function of the row."""


class RowNoise(Around):
    """A generator or discriminator whose hidden noise is a function of the row and its label.

    role: "generator", whose rows are latents, or "discriminator", whose rows are samples.
    Equal rows get equal noise. Two different rows get the same noise with probability 2^-63.
    """

    def __init__(self, module: Callable[..., Any], role: str) -> None:
        super().__init__()
        self.module, self.role = module, role
        self._drawn: int | None = None  # for each row, in a call

    @property
    def inner(self) -> Callable[..., Any] | None:
        return self.module

    def forward(self, rows: Tensor, *label: Tensor) -> Any:
        with _Replacing(self.role, rows, *label) as replacing:
            result = self.module(rows, *label)
        if self._drawn not in (None, replacing.drawn):
            raise NotByRow(
                f'with noise="rows" every call of the {self.role} must draw as many numbers for a '
                f"row, because those after them move; it drew {4 * replacing.drawn} in this call, "
                f"and {4 * (self._drawn or 0)} before: draw a fixed number, whatever the rows are"
            )
        self._drawn = replacing.drawn
        return result


def checked(noise: str | None) -> str | None:
    if noise is not None:
        one_of("noise", noise, NOISES)
    return noise


def key(rows: Tensor, *label: Tensor) -> Tensor:
    """A hash of every row's bits and label, (n,) int64 in [0, 2^63).

    Two different rows have the same hash with probability 2^-63 over the choice of the factors. It
    is two sums of 32 bits, the upper halves of a sum modulo 2^64, to which int64 wraps around.
    Source: Lemire and Kaser, Strongly universal string hashing is fast (2014), section 3.
    """
    bits = _integers(rows.detach())
    first, last, *factors = _factors(bits.shape[1], rows.device)
    total = first[:, None].expand(2, len(rows))
    for some, words in zip(factors, torch.split(bits, COLUMNS, dim=1), strict=True):
        total = total + torch.stack([(words * each).sum(dim=1) for each in some])
    for y in label:
        total = total + last[:, None] * y
    upper = total >> 32
    return ((upper[0] & HALF) << 32) | (upper[1] & MASK)


def _integers(rows: Tensor) -> Tensor:
    """The bits of rows (n, ...) as integers of at most 32 bits, (n, k)."""
    if rows.is_complex():
        rows = torch.view_as_real(rows)
    flat = rows.reshape(len(rows), math.prod(rows.shape[1:])).contiguous()
    return flat.view(INTEGERS[flat.element_size()]) if flat.numel() else flat.long()


@functools.cache  # made before any CUDA graph is captured, so that they are in none
def _factors(width: int, device: torch.device) -> tuple[Tensor, ...]:
    """What is added, the factors of a label, (2,), and those of the columns, in pieces (2, k)."""
    with torch.inference_mode(False):
        rows, d = torch.arange(2, device=device), 2 * (width + 2)
        word = torch.ops.drs_fast.words(FACTORS_SEED, 0, rows, 2, d, HIDDEN, 0, device)
        found = (word[:, 0::2] << 32) | word[:, 1::2]
        return (found[:, 0], found[:, 1], *torch.split(found[:, 2:], COLUMNS, dim=1))


class _Replacing(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Replaces PyTorch's random numbers within the block."""

    def __init__(self, role: str, rows: Tensor, *label: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._role, self._n, self._device, self.drawn = role, len(rows), rows.device, 0
        # Few discriminators draw, and samples may be large. G may write to its latents.
        self._key = functools.cache(lambda: key(rows, *label))
        if role == "generator":
            self._key()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        space, _, name = func._schema.name.partition("::")
        kwargs = kwargs or {}
        if space != "aten":
            return func(*args, **kwargs)
        if name in COMPOSED:
            with self:
                return func.decompose(*args, **kwargs)
        if name in REPLACED:
            names = (argument.name for argument in func._schema.arguments)
            named = dict(zip(names, args, strict=False)) | kwargs
            return self._given(name, REPLACED[name](self, name, named), named)
        if torch.Tag.nondeterministic_seeded in func.tags:
            before = drawing.position(self._device)
            result = func(*args, **kwargs)
            if drawing.position(self._device) != before:
                raise NotByRow(
                    f'noise="rows" cannot replace the random numbers of {space}::{name}; draw them '
                    "as normals, uniforms, exponentials or integers, or switch them off"
                )
            return result
        return func(*args, **kwargs)

    def _given(self, name: str, result: Any, named: dict[str, Any]) -> Any:
        """The result, in the tensor that the operator writes to, if it writes to one."""
        if name.endswith("_"):
            return named["self"].copy_(result)
        if "out" in named:
            return named["out"].resize_(result.shape).copy_(result)
        return result

    # What operators give. `named` are their arguments by name.

    def normals(self, name: str, named: dict[str, Any]) -> Tensor:
        """randn, randn_like; normal and normal_, with mean and std."""
        mean, std = named.get("mean", 0.0), named.get("std", 1.0)
        like = [value for value in (mean, std, named.get("self")) if isinstance(value, Tensor)]
        if name == "normal" and like:
            shape = torch.broadcast_tensors(*like)[0].shape  # type: ignore[no-untyped-call]
            named = {"size": shape, "dtype": like[0].dtype, "device": like[0].device} | named
        return self._as_asked(
            named, lambda shape: self._numbers("normal", name, shape) * std + mean
        )

    def uniforms(self, name: str, named: dict[str, Any]) -> Tensor:
        """rand, rand_like; uniform_ between from and to."""
        low, high = named.get("from", 0.0), named.get("to", 1.0)
        dtype = _dtype(named)
        return self._as_asked(
            named, lambda shape: self._uniform(name, shape, dtype) * (high - low) + low
        )

    def exponentials(self, name: str, named: dict[str, Any]) -> Tensor:
        """exponential_ of a rate."""
        rate = named.get("lambd", 1.0)
        return self._as_asked(named, lambda shape: self._exponential(name, shape) / rate)

    def whole(self, name: str, named: dict[str, Any]) -> Tensor:
        """randint and randint_like from low to high; random_ from `from` to `to`."""
        low, high = (
            (named.get("from", 0), named.get("to"))
            if name == "random_"
            else (named.get("low", 0), named["high"])
        )
        if high is None or isinstance(high, Tensor) or not 0 < high - low < 2**31:
            raise NotByRow(f'noise="rows" takes aten::{name} up to 2^31 numbers, from low to high')
        kind = torch.int64 if "self" not in named else named["self"].dtype
        named = named | {"dtype": named.get("dtype") or kind}
        return self._as_asked(
            named, lambda shape: ((self._numbers("words", name, shape) * (high - low)) >> 32) + low
        )

    def flips(self, name: str, named: dict[str, Any]) -> Tensor:
        """bernoulli and bernoulli_, of a number or of a tensor."""
        own = named["self"]
        p = named.get("p", own if name == "bernoulli" else 0.5)
        u = self._numbers("words", name, own.shape).double() * 2.0**-32
        return self._like(own, u.to(own.device) < p)

    def dropped(self, name: str, named: dict[str, Any]) -> Any:
        """dropout, and native_dropout, which returns the mask too."""
        own, p = named["input"], named["p"]
        if named["train"] is False or p == 0.0:
            return own if name == "dropout" else (own.clone(), torch.ones_like(own).bool())
        kept = self.flips(name, {"self": own, "p": 1.0 - p})
        # The steps of PyTorch's own dropout where it keeps no mask.
        x = own * (kept / (1.0 - p) if p < 1.0 else kept)
        return x if name == "dropout" else (x, kept.bool())

    def chosen(self, name: str, named: dict[str, Any]) -> Tensor:
        """multinomial, (n, classes) -> (n, num_samples): the first to come of exponential times."""
        weights: Tensor = named["self"]
        size: int = named["num_samples"]
        if weights.ndim != 2:
            raise self._shared(name, (size,))
        n, classes = weights.shape
        if not named.get("replacement", False):
            times = self._exponential(name, (n, classes)).to(weights.device)
            return (weights.double() / times).topk(size).indices
        times = self._exponential(name, (n, size, classes)).to(weights.device)
        return (weights.double()[:, None] / times).argmax(dim=2)

    # Numbers of the rows.

    def _as_asked(self, named: dict[str, Any], draw: Callable[[Sequence[int]], Tensor]) -> Tensor:
        """What is drawn, with the shape, dtype and device of the arguments."""
        if "size" not in named:
            own = named["self"]
            return self._like(own, draw(own.shape), named.get("dtype"), named.get("device"))
        return draw(named["size"]).to(named.get("device") or "cpu", _dtype(named))

    def _like(
        self,
        own: Tensor,
        values: Tensor,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> Tensor:
        """The values in a tensor of the same memory format."""
        return torch.empty_like(own, dtype=dtype, device=device).copy_(values)

    def _uniform(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """As many bits as the dtype holds below 1, so that no uniform is rounded to 1."""
        if dtype != torch.float64:
            bits = BITS.get(dtype, 24)
            return (self._numbers("words", name, shape) >> (32 - bits)).float() * 2.0**-bits
        upper, lower = self._numbers("words", name, shape, (2,)).unbind(-1)
        return ((upper << 21) | (lower >> 11)).double() * 2.0**-53

    def _exponential(self, name: str, shape: Sequence[int]) -> Tensor:
        """Half the squared length of two normals, because logarithms differ from place to place."""
        squares = self._numbers("normal", name, shape, (2,)).square()
        return (squares[..., 0] + squares[..., 1]) * 0.5

    def _numbers(
        self, op: str, name: str, shape: Sequence[int], each: tuple[int, ...] = ()
    ) -> Tensor:
        """The next numbers of all rows, (*shape, *each)."""
        if tuple(shape[:1]) != (self._n,):
            raise self._shared(name, shape)
        d, draw = math.prod((*shape[1:], *each)), self.drawn
        self.drawn += -(-d // 4)
        numbers: Callable[..., Tensor] = getattr(torch.ops.drs_fast, op)
        seed, n, where = SEEDS[self._role], self._n, self._device
        return numbers(seed, 0, self._key(), n, d, HIDDEN, draw, where).view(*shape, *each)

    def _shared(self, name: str, shape: Sequence[int]) -> NotByRow:
        return NotByRow(
            f'with noise="rows" a {self._role} draws noise of its own for every row, but '
            f"aten::{name} of shape {tuple(shape)} is shared by the {self._n} rows of a block; "
            f"draw ({self._n}, ...), or switch this noise off"
        )


def _dtype(named: dict[str, Any]) -> torch.dtype:
    """What an operator is asked for; ValueError unless it is real."""
    own = named.get("self")
    usual = own.dtype if isinstance(own, Tensor) else torch.get_default_dtype()
    dtype: torch.dtype = named.get("dtype") or usual
    if dtype.is_complex:
        raise NotByRow('noise="rows" gives real numbers: draw the two parts of complex ones')
    return dtype


REPLACED: dict[str, Callable[[_Replacing, str, dict[str, Any]], Any]] = {
    **dict.fromkeys(("randn", "randn_like", "normal", "normal_"), _Replacing.normals),
    **dict.fromkeys(("rand", "rand_like", "uniform_"), _Replacing.uniforms),
    **dict.fromkeys(("exponential_",), _Replacing.exponentials),
    **dict.fromkeys(("randint", "randint_like", "random_"), _Replacing.whole),
    **dict.fromkeys(("bernoulli", "bernoulli_"), _Replacing.flips),
    **dict.fromkeys(("dropout", "native_dropout"), _Replacing.dropped),
    "multinomial": _Replacing.chosen,
}
