"""The commands: what each is for, and where its arguments are defined."""

from typing import NamedTuple


class Command(NamedTuple):
    """What `drs-fast --help` says of it, and the module whose function of its name adds its flags.

    Only the command that was asked for is imported, because most need PyTorch.
    """

    help: str
    module: str


COMMANDS = {
    "demo": Command("sample the built-in GANs and draw pictures of the result", "reading"),
    "plan": Command("measure how fast a model runs and recommend flags for generate", "drawing"),
    "generate": Command("write samples to a directory, or resume an unfinished run", "drawing"),
    "doctor": Command("check a model; without one, list versions and backends", "reading"),
    "status": Command(
        "say how far a run is: exit code 0 complete, 75 unfinished, 7 no run yet", "reading"
    ),
    "verify": Command("check the sha256 of every shard", "reading"),
    "export": Command("write a run's samples to files that other programs read", "writing"),
    "unweight": Command(
        "keep an unweighted sample of a table's rows, which have log weights", "writing"
    ),
    "report": Command("describe a run in numbers, in pictures and on one page", "reading"),
}
