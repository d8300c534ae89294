"""One module per backend; its functions bear the ops' names, plus `refuses(device)`."""

NAMES = ("cpu", "triton", "reference")  # in order of preference
