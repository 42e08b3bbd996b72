"""The command line: which commands there are, and what is printed when one fails.

A command is one file, which parses and calls. What it calls is imported when it runs, after its settings were checked:
help and wrong settings are answered at once.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

import click
from rich.console import Console
from rich.logging import RichHandler

from mixdpo import __version__
from mixdpo.cli.advise import advise
from mixdpo.cli.audit import audit
from mixdpo.cli.cache import cache, pruned_line
from mixdpo.cli.clean import clean
from mixdpo.cli.compare import compare
from mixdpo.cli.convert import convert
from mixdpo.cli.demo import demo
from mixdpo.cli.eval import evaluate
from mixdpo.cli.examples import examples
from mixdpo.cli.generate import generate
from mixdpo.cli.map import map_
from mixdpo.cli.merge import merge
from mixdpo.cli.pairs import pairs
from mixdpo.cli.plan import plan
from mixdpo.cli.rate import rate
from mixdpo.cli.recipe_options import CommandWithSettings, with_keys
from mixdpo.cli.reference import reference
from mixdpo.cli.rounds import rounds
from mixdpo.cli.score import score
from mixdpo.cli.study import study
from mixdpo.cli.tokens import tokens
from mixdpo.cli.train import train
from mixdpo.cli.versus import versus
from mixdpo.common.cache import cache_limit, prune
from mixdpo.common.disk import disk_fault
from mixdpo.common.errors import MixdpoError
from mixdpo.common.processes import started_processes, work_alone
from mixdpo.common.settings import SECTIONS, split_overrides
from mixdpo.common.signals import EXIT_STATUS, Terminated, end_at_once, taking_signals

logger = logging.getLogger(__name__)


class _BySubject(click.Group):
    """A group whose help lists commands by subject, each in a line of its own."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for subject, commands in _COMMANDS.items():
            with formatter.section(subject):
                formatter.write_dl([(command.name or "", about) for command, about in commands.items()])


_COMMANDS: Final[Mapping[str, Mapping[click.Command, str]]] = {
    "Data": {
        audit: "What is in the pairs, what will hurt, and what to do",
        clean: "Take out what an audit found",
        tokens: "Pairs as the tokens that are trained",
        score: "How hard every pair is",
        plan: "Order and route of every pair",
        advise: "What to do with pairs by margin, and how sure that is",
    },
    "Pairs of your own": {
        generate: "Let a model answer prompts",
        rate: "Let judges rate answers",
        pairs: "Make pairs of rated answers",
        rounds: "Train in rounds, on pairs of the newest model's answers",
    },
    "Training": {
        train: "Train a model by a plan",
        reference: "Compute the reference of a run before it",
        merge: "Make one folder of a run's adapter and its base model",
        convert: "Make a recipe of a configuration of TRL, Axolotl or LLaMA-Factory",
    },
    "Evaluation": {
        evaluate: "Benchmarks, by a judge or measured",
        versus: "Is B better than A?",
        compare: "Results and runs side by side",
    },
    "Studies": {
        demo: "Train and measure a real model in 5 to 7 minutes",
        study: "Compare plans, losses and settings fairly",
        map_: "Train thousands of small policies in worlds of known reward",
    },
    "Files": {
        examples: "Copy recipes, study files and examples of the package",
        cache: "What is kept between runs",
    },
}


@click.group(
    cls=_BySubject, context_settings={"help_option_names": ["-h", "--help"]},
    commands=[command for commands in _COMMANDS.values() for command in commands],
)  # fmt: skip
@click.version_option(__version__)
def app() -> None:
    """Difficulty-aware preference optimisation: plan and train with small-margin pairs kept."""


def _reads_recipe(words: Sequence[str]) -> bool:
    command: click.Command | None = app
    for word in words:
        if not isinstance(command, click.Group):
            break
        command = command.get_command(click.Context(command), word)
    return isinstance(command, CommandWithSettings)


def _run(words: list[str]) -> None:
    overrides: dict[str, Any] = {}
    if _reads_recipe(words):
        words, overrides = split_overrides(with_keys(words), SECTIONS)
    limit = cache_limit()  # a wrong one is told now
    app(args=words, obj=overrides, prog_name="mixdpo", standalone_mode=False)
    if limit is not None and started_processes()[0] == 0 and (line := pruned_line(prune(limit))):
        print(line, file=sys.stderr)


_ON_ALL_PROCESSES = ("train", "score", "reference", "eval preferences")


def _is_left_to_another(words: Sequence[str]) -> bool:
    """Whether a launcher started this command on several processes, and the first of them does it alone."""
    number, count = started_processes()
    if count == 1 or " ".join(words).startswith(_ON_ALL_PROCESSES):
        return False
    if number == 0:
        logger.info(f"this command runs on one process; the other {count - 1} have nothing to do")
        work_alone()
    return number > 0


def _continued(words: Sequence[str]) -> str:
    """Say how a command that was broken off goes on."""
    if words and words[0] == "train":
        return "give the command again, with --resume if a checkpoint is complete: it continues from the last one"
    return "give the same command again: finished log-probabilities, answers and verdicts are kept"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status: 0 done, 1 the run failed, 2 input or settings are wrong."""
    logging.basicConfig(
        level=logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(console=Console(stderr=True), show_path=False, show_time=False)],
    )
    logging.getLogger("mixdpo").setLevel(logging.INFO)
    logging.getLogger("huggingface_hub").propagate = False  # it has a handler of its own, and would say all twice
    words = list(sys.argv[1:] if arguments is None else arguments)
    if _is_left_to_another(words):
        return 0
    try:
        with taking_signals(end_at_once):
            _run(words)
    except click.exceptions.NoArgsIsHelpError as error:  # a group without a command
        print(error.format_message(), file=sys.stderr)
        return 2
    except click.ClickException as error:
        context = error.ctx if isinstance(error, click.UsageError) else None
        command = context.command_path if context is not None else "mixdpo"
        print(f"mixdpo: {error.format_message()} See {command} --help.", file=sys.stderr)
        return 2
    except MixdpoError as error:
        print(f"mixdpo: {error}", file=sys.stderr)
        return error.exit_status
    except Terminated:
        if started_processes()[0] == 0:
            print(f"mixdpo: told to end; {_continued(words)}", file=sys.stderr)
        return EXIT_STATUS
    except (KeyboardInterrupt, click.Abort):
        print(f"mixdpo: interrupted; {_continued(words)}", file=sys.stderr)
        return 130
    except Exception as error:
        fault = disk_fault(error)
        if fault is None:
            raise
        what_to_do = f"free some space, and {_continued(words)}" if fault.is_of_room else "choose another place"
        print(f"mixdpo: {fault}; {what_to_do}", file=sys.stderr)
        return 1 if fault.is_of_room else 2
    return 0
