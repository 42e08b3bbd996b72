"""Style of the answers in a file of verdicts, for Arena-Hard's style control."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from mixdpo.common.errors import install_extra
from mixdpo.common.table_files import read_table, write_json_lines
from mixdpo.evaluation.statistics.style import Version, markdown_counts

_ENCODINGS: Final[dict[Version, str]] = {"v0.1": "cl100k_base", "v2": "o200k_base"}
"""OpenAI's, by which the published metadata count tokens."""


def write_styles(verdicts: Path, baseline: str, version: Version) -> Path | None:
    """Count tokens and Markdown of all answers in a file of verdicts, and write them beside it, as `read_style` reads.

    Returns:
        The file; None where the package that counts tokens is missing, which is said in the log.
    """
    if importlib.util.find_spec("bpe_openai") is None:
        logging.getLogger(__name__).warning(f"no style control, which needs bpe-openai; {install_extra('eval')}")
        return None
    count = _counter(version)
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for row in read_table(verdicts).rows():
        for model, answer in ((baseline, row["output_1"]), (row["model"], row["output_2"])):
            headers, lists, bold = markdown_counts(answer)
            rows[model, row["question_id"]] = {
                "model": model,
                "question_id": row["question_id"],
                "token_len": count(answer),
                "header_count": headers,
                "list_count": lists,
                "bold_count": bold,
            }
    file = verdicts.with_name(verdicts.name.replace(".verdicts.jsonl", ".style.jsonl"))
    write_json_lines(file, rows.values())
    return file


def _counter(version: Version) -> Callable[[str], int]:
    import bpe_openai

    encoding: Any = bpe_openai.get_encoding(_ENCODINGS[version])
    return lambda text: len(encoding.encode_ordinary(text))
