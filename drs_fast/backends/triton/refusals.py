"""Where the Triton kernels cannot run, and why."""

import torch

from drs_fast.backends.triton.launcher import installed

OLDEST = (3, 6)  # of Triton


def refuses(device: torch.device) -> str | None:
    """Why this backend cannot run on the device; None if it can."""
    if device.type not in ("cuda", "cpu"):
        return f"needs CUDA tensors, not those on {device.type}"
    try:
        triton = installed()
        version = tuple(int(part) for part in triton.__version__.split(".")[:2])
    except ModuleNotFoundError:
        return "Triton is not installed; pip install triton"
    except Exception as error:  # a broken install must not stop the other backends
        return f"Triton cannot be imported ({error}); reinstall it"
    if version < OLDEST:
        return f"needs Triton 3.6 or later, found {triton.__version__}; update PyTorch to 2.11"
    if device.type == "cpu" and not triton.knobs.runtime.interpret:
        return "needs CUDA tensors; on a CPU it only runs in tests, under TRITON_INTERPRET=1"
    if device.type == "cuda" and not torch.cuda.is_available():
        return "PyTorch finds no GPU; install its CUDA build and the driver"
    return None
