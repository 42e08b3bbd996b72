"""Public files that a benchmark's definition needs, fetched from the hub and, where their hash is known, checked."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mixdpo.common.errors import InputError


@dataclass(frozen=True)
class HubFile:
    """One file of a data set or a space on the hub; `option` is how a person gives a copy instead."""

    repository: str
    revision: str
    name: str
    sha256: str | None
    option: str
    kind: Literal["dataset", "space"] = "dataset"


_ALPACA_EVAL = ("tatsu-lab/alpaca_eval", "2edc6fad8be6b14ea7230aabfd08188da6b8b814")
GAMED = HubFile(
    *_ALPACA_EVAL, "df_gamed.csv", "97aeec3f1c7de6dee6fd31fe66f1702623f4614c3efe1c6fc5f4927cd5fd674d", "--gamed"
)
DIFFICULTY = HubFile(
    *_ALPACA_EVAL,
    "instruction_difficulty.csv",
    "e28d875bb334f75e17acd1e4ed659b261860e3db379cf5de29060301bed0a18b",
    "--difficulty",
)
ALPACA_BASELINE = HubFile(*_ALPACA_EVAL, "alpaca_eval_gpt4_baseline.json", None, "--baseline")
_MT_BENCH = ("lmsys/mt-bench", "main")
MT_BENCH_QUESTIONS = HubFile(*_MT_BENCH, "data/mt_bench/question.jsonl", None, "--questions", "space")
MT_BENCH_REFERENCES = HubFile(*_MT_BENCH, "data/mt_bench/reference_answer/gpt-4.jsonl", None, "--references", "space")


def arena_hard_file(version: str, name: str, option: str) -> HubFile:
    """Return a file of Arena-Hard's data set, such as `question.jsonl` or `model_answer/MODEL.jsonl`."""
    folder = "data/arena-hard-v0.1" if version == "v0.1" else "data/arena-hard-v2.0"
    return HubFile("lmarena-ai/arena-hard-auto", "main", f"{folder}/{name}", None, option)


def fetch(wanted: HubFile) -> Path:
    """Return a local copy of a hub file, downloaded if need be.

    Raises:
        InputError: it is not in the cache and the hub cannot be reached, or its content is not the published one.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        found = Path(hf_hub_download(wanted.repository, wanted.name, repo_type=wanted.kind, revision=wanted.revision))
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise InputError(
            f"{wanted.name} of the {wanted.kind} {wanted.repository} is needed and cannot be fetched",
            hint=f"give a copy with {wanted.option} FILE, or run once with the hub in reach",
        ) from error
    if wanted.sha256 is not None and hashlib.sha256(found.read_bytes()).hexdigest() != wanted.sha256:
        raise InputError(
            f"not the published {wanted.name} (its sha256 differs)", file=found, hint="delete it and fetch it again"
        )
    return found
