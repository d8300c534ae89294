"""What adapters read of a project's networks; an error says which networks were expected."""

from operator import attrgetter
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

PIXELS = 2**21  # of the images in one call of G and D
MOST = 1024  # rows of small images: wide layers hold hundreds of numbers a pixel


def plain(network: Any) -> Any:
    """The network itself, in place of what spreads it over several devices."""
    while isinstance(network, (nn.DataParallel, DistributedDataParallel)):
        network = network.module
    return network


def read(expected: str, network: Any, **kinds: Any) -> tuple[Any, ...]:
    """These attributes of the network; ValueError unless it has them, and of these types."""
    found = []
    for name, kind in kinds.items():
        try:
            value = attrgetter(name)(network)
        except AttributeError:
            value = None
        if not isinstance(value, kind):
            raise ValueError(
                f"expected {expected}, a network with {', '.join(kinds)}, got a "
                f"{type(network).__name__} without {name}; for networks of your own see drs.wrap"
            )
        found.append(value)
    return tuple(found)


def block(resolution: int) -> int:
    """Rows per call for images of resolution x resolution pixels."""
    return max(1, min(MOST, PIXELS // resolution**2))
