"""What each exit code means."""

OUT_OF_TIME = 75  # EX_TEMPFAIL of sysexits.h: try again
BROKEN_PIPE = 141
EXIT_CODES = {
    0: "done",
    1: "internal error",
    2: "bad arguments, or an unusable model",
    3: "bad logits: the discriminator's output cannot be sampled from",
    4: "starved: too few proposals were accepted",
    5: "the disk is full, or a file could not be written or read",
    6: "damaged: verify found problems, or a table cannot be read",
    7: "the directory is not a run, holds a different run, or is in use",
    8: "the doctor found problems",
    9: "the bound of a squeezed run loses too many samples",
    OUT_OF_TIME: "unfinished (by --max-seconds, SIGUSR1); run the same command again",
    130: "interrupted (Ctrl-C); the message says what was kept",
    BROKEN_PIPE: "broken pipe: the reader of the output has gone",
    143: "terminated (SIGTERM); the message says what was kept",
}
