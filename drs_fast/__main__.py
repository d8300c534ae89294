"""python -m drs_fast: the command line."""

from drs_fast.cli.main import command

command()
