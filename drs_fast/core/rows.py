"""The map of all random numbers: every stream, and every reserved range of rows.

A number is named by (seed, row, stream, draw), so two uses may have the same rows where their
streams differ. A new use takes a new stream, or rows that RESERVED shows to be free, and a line
there. What is written here is a promise: another number gives other samples, and is a new version.
"""

from typing import Final, NamedTuple

RNG_VERSION: Final = 1

LATENT: Final = 0  # the latents of proposals
ACCEPT: Final = 1  # whether a row is accepted
SELECT: Final = 2  # which candidate of a group is chosen
CHAIN: Final = 3  # whether a chain moves
NOISE: Final = 4  # of Langevin steps
LABEL: Final = 5  # the class of a proposal
AUDIT: Final = 6  # which rows G and D see although a bound does not ask for it
FITTING: Final = 7  # `Draws`: initial weights, minibatches, dropout; real samples of toy GANs
REAL: Final = 8  # the order of the real samples that chains start at
PROPOSAL: Final = 9  # fresh latents that a chain may jump to
SHUFFLE: Final = 10  # in which order a loader reads the shards and the samples of a run
HIDDEN: Final = 11  # noise that G or D draws itself; the row is a hash of what they were given

END: Final = 2**63  # of all rows
BURN_IN_ROW: Final = 2**62  # no run comes here
TRAINING_ROW: Final = BURN_IN_ROW + 2**61
SEARCH_ROW: Final = TRAINING_ROW + 2**58
RATIO_ROW: Final = TRAINING_ROW + 2**59
HELD_OUT_ROW: Final = TRAINING_ROW + 2**60
PROBE_ROW: Final = HELD_OUT_ROW + 2**59

# Of the fitting stream alone.
ZOO_TRAINING_ROW: Final = 2**32
CRITIC_ROW: Final = 2**33
CLASSIFIER_ROW: Final = 2**34
STYLE_ROW: Final = 2**35
WEIGHT_ROW: Final = 2**60
ORDER_ROW: Final = 2**61
MASK_ROW: Final = 2**61 + 2**60
FLOW_ROW: Final = BURN_IN_ROW
DOCTOR_ROW: Final = BURN_IN_ROW + 2**60
ZOO_DATA_ROW: Final = BURN_IN_ROW

RESTART: Final = 2**61  # flips a bit of the rows whose uniforms a chain takes when it runs again

# Of benchmarks.
SIMULATED_ROW: Final = 2**50
SIMULATED_START_ROW: Final = 2**55
BENCHMARK_DATA_ROW: Final = 2**61


class Range(NamedTuple):
    """Rows [first, end) of some streams, and who has them.

    meets: ranges above it in the table that have some of the same rows of the same stream.
    """

    name: str
    first: int
    end: int
    streams: tuple[int, ...]
    use: str
    meets: tuple[str, ...] = ()


_RUN = (LATENT, ACCEPT, SELECT, CHAIN, NOISE, LABEL, AUDIT, PROPOSAL)
_FIT = (FITTING,)
_DRAWN = (LATENT, LABEL, FITTING)

RESERVED: Final = (
    Range("run", 0, BURN_IN_ROW, _RUN, "the proposals of a run, from row 0 on"),
    Range("real samples", 0, BURN_IN_ROW, (REAL,), "MH: a row for each real sample"),
    # A run of 2^61 rows would take decades.
    Range("restarts", RESTART, BURN_IN_ROW, (CHAIN,), "MH: chains that run again", ("run",)),
    # Rows that benchmarks use in place of a run's, or that no run of theirs comes to.
    Range(
        "simulated chains", SIMULATED_ROW, SIMULATED_START_ROW, (LATENT,), "logits without a GAN",
        ("run",),
    ),
    Range(
        "simulated starts", SIMULATED_START_ROW, 2**56, (LATENT,), "logits without a GAN", ("run",)
    ),
    Range(
        "benchmark data", BENCHMARK_DATA_ROW, BURN_IN_ROW, (LATENT,), "noise of real samples",
        ("run",),
    ),
    # In order from row 0, each with a seed or data of its own.
    Range(
        "first draws", 0, ZOO_TRAINING_ROW, _FIT,
        "splits of real images; training of the zoo's planes; real samples of benchmarks",
    ),
    Range("zoo training", ZOO_TRAINING_ROW, CRITIC_ROW, _FIT, "GANs of images, zoo or benchmark"),
    Range("critics", CRITIC_ROW, CLASSIFIER_ROW, _FIT, "discriminators that benchmarks train"),
    Range("classifier", CLASSIFIER_ROW, 2**35, _FIT, "of digits, which benchmarks train"),
    Range("styles", STYLE_ROW, 2**36, _FIT, "latents of the average style of a StyleGAN2"),
    Range("weights", WEIGHT_ROW, ORDER_ROW, _FIT, "initial weights of density ratios"),
    Range("order", ORDER_ROW, MASK_ROW, _FIT, "splits and minibatches of density ratios"),
    Range("masks", MASK_ROW, BURN_IN_ROW, _FIT, "dropout of density ratios"),
    # Doctor, tuning, plan, demo and the check of a GAN's output look at burn-in rows on purpose:
    # what they find is then true of the rows that a burn-in sees.
    Range("burn-in", BURN_IN_ROW, TRAINING_ROW, _RUN, "the burn-in of samplers"),
    Range("flow", FLOW_ROW, DOCTOR_ROW, _FIT, "FlEx2MCMC: weights and latents of its flow"),
    # It stays there because MH starts at these samples and calibrations are fitted to them.
    Range(
        "zoo data", ZOO_DATA_ROW, DOCTOR_ROW, _FIT, "real samples of the zoo's planes", ("flow",)
    ),
    Range("doctor", DOCTOR_ROW, TRAINING_ROW, _FIT, "in which order rows are tried"),
    Range("training", TRAINING_ROW, SEARCH_ROW, _DRAWN, "latent weights, contrastive critics"),
    Range("search", SEARCH_ROW, RATIO_ROW, (*_DRAWN, ACCEPT, AUDIT), "bounds of Squeeze"),
    Range("ratios", RATIO_ROW, HELD_OUT_ROW, (LATENT,), "density ratios on frozen features"),
    Range("held out", HELD_OUT_ROW, PROBE_ROW, _DRAWN, "tests and calibration of what was trained"),
    Range("shuffled samples", 0, BURN_IN_ROW, (SHUFFLE,), "a row for each sample of a run"),
    Range("shuffled shards", BURN_IN_ROW, END, (SHUFFLE,), "a row for each of its shards"),
    Range("hidden noise", 0, END, (HIDDEN,), "a hash of what G or D is given"),
    Range("probe", PROBE_ROW, END, (LATENT,), "whether a run goes on in the same numbers"),
)  # fmt: skip
