"""Commands that read a file of their own, whose keys end their help."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click


class CommandWithKeys(click.Command):
    """A command whose help ends with what `keys_help` of a module says: the keys of the file it reads."""

    def __init__(self, *arguments: Any, reader: str, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.reader = reader

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the keys below the options."""
        formatter.write("\n" + import_module(self.reader).keys_help() + "\n")
