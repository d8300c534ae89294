"""What the samples of a run follow whose sampler's `exact` says so, in words."""

# Without and with quotas of the classes.
DATA, DATA_WITHIN = "data", "data of each class, in the proportions asked for"
DATA_OF_ONE = "data of class "  # where no other is proposed; its number follows
MEANT = "; where data is "  # begins what "data" means in a law, unless it is the data
