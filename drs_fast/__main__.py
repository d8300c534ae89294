"""python -m drs_fast: the command line."""

from drs_fast.cli import command

command()
