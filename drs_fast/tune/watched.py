"""Who calls the modules of a network, and who reads their tensors, in one call of it."""

import weakref
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class Watched(TorchFunctionMode):
    """What happened between its beginning and its end: torch shows it every use of a tensor.

    A reader is the innermost module that was running when a tensor was used.
    """

    def __init__(self) -> None:
        super().__init__()
        self._calls: dict[nn.Module, list[int | None]] = {}  # tensors given in each call
        self._running: list[nn.Module | None] = [None]
        self._own: dict[int, list[nn.Module]] = {}  # whose parameter or buffer it is, by its id
        self._made: dict[int, tuple[weakref.ref[Tensor], nn.Module]] = {}
        self._used_by: dict[nn.Module, set[nn.Module | None]] = {}  # its parameters and buffers
        self._read_by: dict[nn.Module, set[nn.Module | None]] = {}  # what it returned

    def times(self, module: nn.Module) -> int:
        """How often it was called."""
        return len(self._calls.get(module, []))

    def given(self, module: nn.Module, times: int) -> int | None:
        """How many tensors it was given; None unless it got as many, by position, so often."""
        calls = self._calls.get(module, [])
        return calls[0] if len(calls) == times and len(set(calls)) == 1 else None

    def only_feeds(self, layer: nn.Module, norm: nn.Module, times: int) -> bool:
        """Whether each was called so often, only norm read what layer returned, and nobody else
        read the parameters and buffers of either.
        """
        alone = all(
            self.given(one, times) == 1 and self._used_by.get(one, set()) <= {one}
            for one in (layer, norm)
        )
        return alone and self._read_by.get(layer) == {norm}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in _tensors((args, kwargs or {})):
            for module in self._own.get(id(tensor), ()):
                self._used_by.setdefault(module, set()).add(self._running[-1])
            maker = self._maker(tensor)
            if maker is not None:
                self._read_by.setdefault(maker, set()).add(self._running[-1])
        return func(*args, **kwargs or {})

    def add(self, module: nn.Module) -> None:
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            self._own.setdefault(id(tensor), []).append(module)

    def begins(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tensors = not kwargs and all(isinstance(one, Tensor) for one in args)
        self._calls.setdefault(module, []).append(len(args) if tensors else None)
        self._running.append(module)

    def ends(self, module: nn.Module, args: tuple[Any, ...], found: Any) -> None:
        self._running.pop()
        if isinstance(found, Tensor) and self._maker(found) is None:
            self._made[id(found)] = weakref.ref(found), module

    def _maker(self, tensor: Tensor) -> nn.Module | None:
        """The innermost module that returned this tensor."""
        made, module = self._made.get(id(tensor), (None, None))
        # Another tensor may lie where one lay that is gone.
        return module if made is not None and made() is tensor else None


@contextmanager
def watched(networks: Iterable[nn.Module]) -> Iterator[Watched]:
    """Watches these networks while the context lasts; in it each should be called once."""
    seen = Watched()
    with ExitStack() as hooks:
        for module in {one: None for network in networks for one in network.modules()}:
            if isinstance(module, torch.jit.ScriptModule):
                continue
            seen.add(module)
            for handle in (
                module.register_forward_pre_hook(seen.begins, prepend=True, with_kwargs=True),
                module.register_forward_hook(seen.ends),
            ):
                hooks.callback(handle.remove)
        with seen:
            yield seen


def _tensors(given: Any) -> Iterator[Tensor]:
    if isinstance(given, Tensor):
        yield given
    elif isinstance(given, dict):
        yield from _tensors(tuple(given.values()))
    elif isinstance(given, (tuple, list)):
        for one in given:
            yield from _tensors(one)
