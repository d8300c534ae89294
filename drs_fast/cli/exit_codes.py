"""What the exit code of a command says."""

BROKEN_PIPE = 141
EXIT_CODES = {
    0: "done",
    1: "an error of the program",
    2: "wrong arguments, or a model that cannot be used",
    3: "the discriminator's logits cannot be sampled from",
    4: "starved: too few proposals were accepted",
    5: "the disk is full, or a file could not be written or read",
    6: "damaged: verify found problems",
    7: "the directory is no run, is another run, or is in use",
    8: "the doctor found problems",
    9: "the bound of a squeezed run loses too much",
    130: "interrupted (Ctrl-C); the same command goes on",
    BROKEN_PIPE: "nobody reads the output any more",
    143: "terminated; the same command goes on",
}
