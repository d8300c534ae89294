"""The map of all random numbers: the streams, and the reserved rows."""

RNG_VERSION = 1
LATENT, ACCEPT, SELECT, CHAIN, NOISE, LABEL, AUDIT, FITTING, REAL, PROPOSAL = range(10)
BURN_IN_ROW = 2**62  # no run reaches this row
TRAINING_ROW = BURN_IN_ROW + 2**61  # first row of latents that networks are trained on
HELD_OUT_ROW = TRAINING_ROW + 2**60  # and of those they are tested and calibrated on
PROBE_ROW = HELD_OUT_ROW + 2**59  # and of those that check whether a run resumes with equal numbers
