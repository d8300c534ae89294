"""One module per backend. Its functions have the ops' names, plus `refuses(device)`."""

NAMES = ("cuda", "cpu", "triton", "reference")  # in order of preference
