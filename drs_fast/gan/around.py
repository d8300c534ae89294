"""Modules around a user's G or D, and what things are called."""

from abc import abstractmethod
from collections.abc import Callable
from types import FunctionType
from typing import Any

from torch import nn


class Around(nn.Module):
    """A module that calls a user's G or D in a way of its own."""

    @property
    @abstractmethod
    def inner(self) -> Callable[..., Any] | None:
        """What it calls."""


def named(choice: str | Callable[..., Any]) -> str:
    """A prior, a link or a network in a word; of a network within another, its own."""
    if isinstance(choice, str):
        return choice
    if isinstance(choice, Around) and choice.inner is not None:
        return named(choice.inner)
    return choice.__name__ if isinstance(choice, FunctionType) else type(choice).__name__
