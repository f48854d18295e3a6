"""What the verbs of the command share: their parsers and where they print."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from rich.console import Console


class Parser(ArgumentParser):
    """An argument parser whose errors are ours to print."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; see {self.prog} --help")


def parser_of(verb: str, about: str, epilog: str | None = None, *, add_help: bool = True) -> Parser:
    """The parser of a verb."""
    return Parser(
        prog=f"lightning-adapt {verb}",
        description=about,
        epilog=epilog,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=add_help,
    )


def standard_output() -> Console:
    """Standard output; wide enough for parameter names where nothing says how wide it is."""
    from rich.console import Console

    unknown = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(width=110 if unknown else None)
