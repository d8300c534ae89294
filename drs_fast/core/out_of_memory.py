"""Too little memory, on any device."""

import torch

CPU_MEMORY = "can't allocate memory"  # in PyTorch's RuntimeError on a CPU


class OutOfMemory(MemoryError, torch.OutOfMemoryError):
    """G or D needs more memory for the rows of one call than there is; says how many to give."""


def lacks_memory(error: BaseException) -> bool:
    """Whether memory was too small."""
    kinds = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or (
        isinstance(error, RuntimeError) and CPU_MEMORY in str(error)
    )
