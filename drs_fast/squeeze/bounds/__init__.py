"""Bounds of the logit, one kind a file; what they share is in `bound`."""
