"""One module per backend; its functions bear the ops' names, plus `refuses(device)`."""

NAMES = ("cuda", "cpu", "triton", "reference")  # in order of preference
