"""The map of all random numbers: which streams there are, and which rows are reserved."""

RNG_VERSION = 1
LATENT, ACCEPT, SELECT, CHAIN, NOISE, LABEL, AUDIT, FITTING, REAL, PROPOSAL = range(10)
BURN_IN_ROW = 2**62  # no run comes here
TRAINING_ROW = BURN_IN_ROW + 2**61  # of latents that networks are trained on
HELD_OUT_ROW = TRAINING_ROW + 2**60  # and of those that they are tested and calibrated on
PROBE_ROW = HELD_OUT_ROW + 2**59  # and of those that tell whether a run goes on in the same numbers
