"""Commands with more settings than a screen holds: short help, and the rest by topic."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from mixdpo.recipe.help_topics import HelpTopic

ALL = "all"


class CommandWithTopics(click.Command):
    """A command of which `--help` tells what matters most, and `--help TOPIC` all settings of a topic."""

    def topics(self, ctx: click.Context) -> Sequence[HelpTopic]:
        """Return all settings by topic."""
        raise NotImplementedError

    def chief(self, ctx: click.Context) -> Sequence[tuple[str, str]]:
        """Return the settings that the short help names; none where topics alone are named."""
        return ()

    def get_help_option(self, ctx: click.Context) -> click.Option:
        """Return `--help`, which takes a topic."""
        if self._help_option is None:
            self._help_option = click.Option(
                self.get_help_option_names(ctx),
                is_flag=False,
                flag_value="",
                metavar="[TOPIC]",
                is_eager=True,
                expose_value=False,
                callback=self._show_help,
                help="Show this message, or all settings of a topic, and exit.",
            )
        return self._help_option

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Name the settings that matter most, and the topics, below the options."""
        if chief := self.chief(ctx):
            with formatter.section("Settings that matter most (keys of a recipe, or options)"):
                formatter.write_dl(chief)
        with formatter.section(f"{ctx.command_path} --help TOPIC lists all settings of a topic"):
            formatter.write_dl([*((topic.name, topic.about) for topic in self.topics(ctx)), (ALL, "all of them")])

    def _show_help(self, ctx: click.Context, option: click.Parameter, name: str | None) -> None:
        if name is None or ctx.resilient_parsing:
            return
        click.echo(self._of_topic(ctx, name) if name else ctx.get_help(), color=ctx.color)
        ctx.exit()

    def _of_topic(self, ctx: click.Context, name: str) -> str:
        topics = self.topics(ctx)
        chosen = [topic for topic in topics if name in (topic.name, ALL)]
        if not chosen:
            names = ", ".join([*(topic.name for topic in topics), ALL])
            raise click.UsageError(f"--help {name}: the topics of {ctx.command_path} are {names}.", ctx)
        formatter = ctx.make_formatter()
        for topic in chosen:
            with formatter.section(f"{topic.name} ({topic.about})"):
                for part in _parts(topic.entries):
                    formatter.write_dl(part, col_max=34) if part[0][1] else formatter.write_text(part[0][0])
        return formatter.getvalue().strip("\n")


def _parts(entries: Sequence[tuple[str, str]]) -> list[list[tuple[str, str]]]:
    """Cut a topic's entries where headings stand, which have no meaning."""
    parts: list[list[tuple[str, str]]] = []
    for entry in entries:
        if not parts or not entry[1] or not parts[-1][0][1]:
            parts.append([])
        parts[-1].append(entry)
    return parts


class CommandOfFile(CommandWithTopics):
    """A command that reads a file of its own, whose keys a module's `keys_topics` tells."""

    def __init__(self, *arguments: Any, reader: str, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.reader = reader

    def topics(self, ctx: click.Context) -> Sequence[HelpTopic]:
        """Return the keys of the file."""
        from importlib import import_module

        found: Sequence[HelpTopic] = import_module(self.reader).keys_topics()
        return found


class CommandOfGroups(CommandWithTopics):
    """A command with many options, of which `--help` tells those that are in no group, and names the groups.

    `groups` has by name what one is about and the names of its parameters.
    """

    def __init__(self, *arguments: Any, groups: Mapping[str, tuple[str, Collection[str]]], **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.groups = groups

    def topics(self, ctx: click.Context) -> Sequence[HelpTopic]:
        """Return the options of each group."""
        from mixdpo.recipe.help_topics import HelpTopic

        return [
            HelpTopic(name, about, tuple(self._records(ctx, names))) for name, (about, names) in self.groups.items()
        ]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options that are in no group."""
        grouped = {name for _, names in self.groups.values() for name in names}
        with formatter.section("Options"):
            formatter.write_dl(self._records(ctx, {one.name or "" for one in self.get_params(ctx)} - grouped))

    def _records(self, ctx: click.Context, names: Collection[str]) -> list[tuple[str, str]]:
        options = (one for one in self.get_params(ctx) if isinstance(one, click.Option))
        found = (one.get_help_record(ctx) for one in options if one.name in names)
        return [record for record in found if record is not None]
