"""The arguments of the command that was asked for; of the others no more than their names."""

import argparse
import importlib
from typing import NoReturn

from drs_fast import __version__
from drs_fast.cli.exit_codes import EXIT_CODES
from drs_fast.cli.names import COMMANDS
from drs_fast.cli.values import spread
from drs_fast.core.words import did_you_mean

TRACEBACK = "--traceback"


def parsed(given: list[str]) -> argparse.Namespace:
    """The arguments; SystemExit with code 2, after an explanation, if they are wrong."""
    given = spread(given)
    made = parser(given)
    options, unknown = made.parse_known_args(given)
    if unknown:
        _refuse(made, options, unknown)
    return options


def parser(given: list[str]) -> argparse.ArgumentParser:
    """The parser for these arguments: the flags of their command are there, and no others."""
    codes = "\n".join(f"  {code:>3}  {meaning}" for code, meaning in EXIT_CODES.items())
    made = argparse.ArgumentParser(
        prog="drs-fast",
        description="Draw samples from a trained GAN and keep those its discriminator believes in.",
        epilog=f"exit codes:\n{codes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--version", action="version", version=__version__)
    asked = given[0] if given else ""
    if asked and not asked.startswith("-") and asked not in COMMANDS:
        meant = did_you_mean(asked, COMMANDS)
        made.error(
            f"there is no command {asked!r}{f'{meant} There' if meant else '; there'} are "
            f"{', '.join(COMMANDS)}"
        )
    added = made.add_subparsers(required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        one = added.add_parser(name, allow_abbrev=False, help=command.help)
        if name != asked:
            continue
        module = importlib.import_module(f"drs_fast.cli.{command.module}")
        vars(module)[name](one, given)
        one.add_argument(
            TRACEBACK, action="store_true", help="with an error, where in the code it came from"
        )
        one.set_defaults(run=name, parser=one)
    return made


def _refuse(
    made: argparse.ArgumentParser, options: argparse.Namespace, unknown: list[str]
) -> NoReturn:
    """Says what the command has instead."""
    flags = [word.partition("=")[0] for word in unknown if word.startswith("--")]
    if not flags:
        made.error(f"unrecognized arguments: {' '.join(unknown)}")
    known = [flag for flag in options.parser._option_string_actions if flag.startswith("--")]
    who, has = f"drs-fast {options.run}", known
    if "sampler" in options:
        from drs_fast.cli import fields

        who, has = fields.of(options.sampler)
    meant = {flag: did_you_mean(flag, known) for flag in flags}
    lines = [f"{who} has no {flag}{question}" for flag, question in meant.items() if question]
    strange = [flag for flag, question in meant.items() if not question]
    if strange:
        lines.append(f"{who} has no {', '.join(strange)}; it has {', '.join(has)}")
    made.error(" ".join(lines))
