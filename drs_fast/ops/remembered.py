"""Remembers which `out` was found good, so that a loop's next call need not look at it again."""

from weakref import ref

from torch import Tensor

from drs_fast.core.compacted import Compacted
from drs_fast.ops.outputs import Fits

Span = tuple[int, int]  # the first address, and the one after the last


class Good:
    """What was true of an `out` when it was checked."""

    def __init__(self, out: Compacted) -> None:
        self._fits = Fits(out)
        self._held = [(to, to.data_ptr(), to.shape, to.dtype) for to in out.tensors()]
        self._targets = [(at, at + to.nbytes) for to, at, _, _ in self._held]
        self._sources: list[Span] = []  # those that share no memory with the targets

    def good_for(
        self, logit: Tensor, rows: tuple[Tensor, ...], parameters: tuple[float | Tensor, ...]
    ) -> bool:
        """Whether nothing of it has changed, and these inputs can be taken unchanged."""
        if not self._fits(logit, rows):
            return False
        try:
            return self.unchanged() and self._apart((logit, *rows), parameters)
        except RuntimeError:  # of a tensor that has no address
            return False

    def unchanged(self) -> bool:
        for tensor, address, shape, dtype in self._held:
            if (
                tensor.data_ptr() != address
                or tensor.shape != shape
                or tensor.dtype is not dtype
                or not tensor.is_contiguous()
                or tensor.requires_grad
            ):
                return False
        return True

    def _apart(self, inputs: tuple[Tensor, ...], parameters: tuple[float | Tensor, ...]) -> bool:
        for parameter in parameters:
            if isinstance(parameter, Tensor):
                if not parameter.is_contiguous():
                    return False
                inputs += (parameter,)
        sources = [(start := source.data_ptr(), start + source.nbytes) for source in inputs]
        if sources != self._sources:
            for start, stop in sources:
                if start == 0 or any(start < end and begin < stop for begin, end in self._targets):
                    return False
            self._sources = sources
        return True


_good: dict[int, tuple[ref[Compacted], Good]] = {}


def good(
    out: Compacted | None, logit: Tensor, rows: tuple[Tensor, ...], *parameters: float | Tensor
) -> bool:
    """Whether it was found good, has not changed, and is good for these inputs; else: unknown."""
    known = _known(out)
    return known is not None and known.good_for(logit, rows, parameters)


def remember(out: Compacted) -> None:
    """To be called when `out` was found good."""
    known = _known(out)
    if known is not None and known.unchanged():
        return
    if any(to.is_inference() for to in out.tensors()):  # which is good in inference mode only
        return
    name = id(out)
    _good[name] = ref(out, lambda _: _good.pop(name, None)), Good(out)


def _known(out: Compacted | None) -> Good | None:
    found = _good.get(id(out))
    return found[1] if found is not None and found[0]() is out else None
