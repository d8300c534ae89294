"""Whether a call draws from PyTorch's own random numbers."""

import torch


def position(device: torch.device) -> tuple[bytes, int]:
    """Where the generators of the CPU and of this device are; whoever draws moves them.

    The host knows it, so that no GPU is waited for.
    """
    host = torch.default_generator.get_state().numpy().tobytes()
    if device.type != "cuda" or torch.cuda.is_current_stream_capturing():
        return host, 0
    index = torch.cuda.current_device() if device.index is None else device.index
    return host, int(torch.cuda.default_generators[index].get_offset())
