"""Code blocks, links and paths of the project's Markdown pages."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "benchmarks/*.md", "studies/*.md")
    for path in ROOT.glob(pattern)
    if not path.name.startswith(".")
)
SHELL = ("sh", "bash", "shell", "console")
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.M | re.S)
_INDENTED = re.compile(r"(?:(?<=\n\n)|\A)((?: {4}.*\n|\n(?= {4}))+)")


@dataclass(frozen=True)
class Block:
    """A code block, without its indentation; one that is indented instead of fenced is of the language `sh`."""

    language: str
    text: str


def blocks(page: str) -> list[Block]:
    """All code blocks of a page: the fenced ones, then the indented ones."""
    fenced = [Block(match[2], re.sub(f"(?m)^{match[1]}", "", match[3])) for match in _FENCE.finditer(page)]
    rest = _FENCE.sub("", page)
    return fenced + [Block("sh", re.sub("(?m)^ {4}", "", match[1])) for match in _INDENTED.finditer(rest)]


def commands(block: Block) -> list[list[str]]:
    """The commands of a block as words, comments and continuations resolved; of a session, the lines behind a `$`."""
    lines = block.text.strip().replace("\\\n", " ").splitlines()
    if block.text.lstrip().startswith("$ "):
        lines = [line[2:] for line in lines if line.startswith("$ ")]
    elif block.language not in SHELL:
        return []
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def mixdpo_commands(page: str) -> Iterator[list[str]]:
    """Arguments of every `mixdpo` command in the code blocks of a page, up to where the shell takes over."""
    for block in blocks(page):
        for words in commands(block):
            if words[0] == "mixdpo":
                yield list(takewhile(lambda word: word not in ("|", ">", "&&", ";"), words[1:]))


def links(page: str) -> Iterator[str]:
    """Targets of links and images, code left out."""
    prose = re.sub(r"`[^`\n]+`", "", _INDENTED.sub("", _FENCE.sub("", page)))
    yield from re.findall(r"\]\(([^)\s]+)\)", prose)
    yield from re.findall(r"(?:src|srcset|href)=\"([^\"]+)\"", prose)


def anchors(page: str) -> set[str]:
    """Names under which GitHub links to the headings of a page."""
    headings = re.findall(r"(?m)^#+ +(.+?) *$", _FENCE.sub("", page))
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


def paths(page: str) -> set[str]:
    """Paths into the repository that a page prints, in prose or code."""
    folders = "|".join(path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith("."))
    return set(re.findall(rf"(?<![\w/.\-])((?:{folders})/[\w.\-/]*[\w/])(?![\w/{{*<]|\.\w)", page))
