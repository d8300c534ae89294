"""Turns other people's GANs, and other sources, into a `GAN`.

`drs.adapters.biggan(G, D)` and the others know how the networks of a public project are called,
what they return, and the prior, labels and loss they were trained with. Importing one imports
nothing of that project.
"""

from typing import TYPE_CHECKING

from drs_fast.core.later import later

if TYPE_CHECKING:
    from drs_fast.adapters.biggan_pytorch import biggan
    from drs_fast.adapters.brownvc_r3gan import r3gan
    from drs_fast.adapters.nvidia_stylegan import stylegan2_ada, stylegan3
    from drs_fast.adapters.pytorch_studiogan import studiogan
    from drs_fast.adapters.rosinality_stylegan2 import rosinality
    from drs_fast.adapters.sequences import timegan
    from drs_fast.adapters.tables import ctgan
    from drs_fast.adapters.torch_mimicry import mimicry

# Imported when they are asked for.
LATER = {
    "biggan": "biggan_pytorch",
    "ctgan": "tables",
    "mimicry": "torch_mimicry",
    "r3gan": "brownvc_r3gan",
    "rosinality": "rosinality_stylegan2",
    "studiogan": "pytorch_studiogan",
    "stylegan2_ada": "nvidia_stylegan",
    "stylegan3": "nvidia_stylegan",
    "timegan": "sequences",
}

__all__ = [
    "biggan",
    "ctgan",
    "mimicry",
    "r3gan",
    "rosinality",
    "studiogan",
    "stylegan2_ada",
    "stylegan3",
    "timegan",
]


__getattr__ = later(__name__, LATER)


def __dir__() -> list[str]:
    return sorted({*globals(), *LATER})
