"""One module per backend; its functions bear the ops' names, plus `refuses(device)`."""

NAMES = ("cpu", "reference")  # in order of preference
