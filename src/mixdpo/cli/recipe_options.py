"""What the commands that read a recipe share: the data, the recipe file, and help that lists its keys."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, Final

import click

from mixdpo.cli.options import FILE_OR_NAME
from mixdpo.cli.topic_help import CommandWithTopics
from mixdpo.common.settings import merge

if TYPE_CHECKING:
    from mixdpo.recipe.help_topics import HelpTopic
    from mixdpo.recipe.recipe_file import Recipe


def quiet_libraries() -> None:
    """Leave standard error to our own progress and warnings, also of libraries that are imported later."""
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not sys.warnoptions:  # FutureWarnings are notes from one library's authors to another's
        warnings.filterwarnings("ignore", category=FutureWarning)
    if "huggingface_hub" in sys.modules:
        sys.modules["huggingface_hub"].utils.disable_progress_bars()
    if "datasets" in sys.modules:
        sys.modules["datasets"].disable_progress_bars()
    if "transformers" in sys.modules:
        logging = sys.modules["transformers"].utils.logging
        logging.disable_progress_bar()
        logging.set_verbosity_error()


class CommandWithSettings(CommandWithTopics):
    """A command that reads a recipe, whose keys its help tells by topic, with units and defaults."""

    def topics(self, ctx: click.Context) -> Sequence[HelpTopic]:
        """Return the keys that the command reads."""
        from mixdpo.recipe.settings_help import settings_topics

        return settings_topics(ctx.info_name or "")

    def chief(self, ctx: click.Context) -> Sequence[tuple[str, str]]:
        """Return the few that matter most."""
        from mixdpo.recipe.settings_help import chief_settings

        return chief_settings(ctx.info_name or "")

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the options; one that is a key of a recipe without its section is answered with the section."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            from mixdpo.recipe.settings_help import settings_named

            found = settings_named(error.option_name.lstrip("-").replace("-", "_"))
            if not found:
                raise
            options = [f"--{setting}" for setting in found]
            raise click.NoSuchOption(error.option_name, possibilities=options, ctx=ctx) from error


_NAMES: Final = {"--model": "name_or_path", "--plan": "name"}
"""Sections of a recipe that are known by one key: the option of the section alone gives that key."""


def with_keys(words: Sequence[str]) -> list[str]:
    """Write `--model NAME` as `--model.name_or_path NAME`, and `--plan NAME` as `--plan.name NAME`."""
    result = list(words)
    for at, (word, following) in enumerate(zip(words, [*words[1:], ""], strict=True)):
        option, equals, value = word.partition("=")
        value = (value if equals else following).strip()
        if option in _NAMES and value and not value.startswith(("{", "-")):
            result[at] = f"{option}.{_NAMES[option]}" + equals + (value if equals else "")
    return result


data_argument = click.argument("data", type=FILE_OR_NAME, required=False)
config_option = click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="Recipe: a YAML file, or mixdpo:NAME (see mixdpo examples); --SECTION.KEY VALUE overrides any key of it.",
)


def recipe_of(overrides: dict[str, Any], config: Path | None, data: str | None) -> Recipe:
    """Load the recipe with what the command line says on top.

    `data` replaces all that says where the recipe's pairs are: its split or columns are not those of another file.
    """
    from mixdpo.data.data_settings import DataSettings, SourceSettings
    from mixdpo.recipe.recipe_file import load_recipe
    from mixdpo.recipe.shipped_files import resolve

    quiet_libraries()
    if data is not None:
        of_source = {f.name for f in fields(SourceSettings)} - {"max_pairs"}
        defaults = {f.name: f.default for f in fields(DataSettings) if f.name in of_source}
        overrides = merge({"data": {**defaults, "path": data}}, overrides)
    return load_recipe(None if config is None else resolve(config, "recipe"), overrides)


def data_words(overrides: dict[str, Any], data: str | None, config: Path | None) -> str:
    """Return the words of this command line that say which pairs are read, and how."""
    from mixdpo.recipe.recipe_file import yaml_text

    words = [data] if data is not None else []
    if config is not None:
        words += ["--config", str(config)]
    for key, value in overrides.get("data", {}).items():
        words += [f"--data.{key}", yaml_text(value)]
    return " ".join(map(quote, words))
