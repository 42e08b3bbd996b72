"""Fixtures shared by all tests."""

from __future__ import annotations

import gc
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

# Before the imports that read them.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import datasets
import pytest
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerFast

from loopback import Endpoint, running
from mixdpo.common.errors import InputError
from mixdpo.models import cached_logprobs, forward
from published import published
from tiny import byte_level_tokenizer

_QUIET_CHROMIUM = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
                   "--disable-background-networking", "--disable-component-update"]  # fmt: skip


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return byte_level_tokenizer()


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """Folder of the real SmolLM2-135M-Instruct."""
    from mixdpo.study.demo.smollm2 import smollm2_folder

    return smollm2_folder()


@pytest.fixture
def half_trained(monkeypatch) -> Callable[[Dataset], Dataset]:
    """Every second token of an answer is not trained; returns what does that to tokenised pairs."""

    def mask(pair: dict[str, Any]) -> dict[str, Any]:
        return {f"{s}_mask": [k % 2 == 0 for k in range(len(pair[f"{s}_ids"]))] for s in ("chosen", "rejected")}

    original = forward.all_tokens
    monkeypatch.setattr(forward, "all_tokens", lambda *args: original(*args).map(mask))
    return lambda tokens: tokens.map(mask)


@pytest.fixture
def browser() -> Iterator[Any]:
    """A headless Chromium that makes no request of its own."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no Chromium is installed (apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=_QUIET_CHROMIUM)
        yield running
        running.close()


@pytest.fixture(scope="session")
def alpaca_graded() -> Path:
    """Folder of real graded pairs, which are not part of the project."""
    return published("alpaca_graded")


@pytest.fixture(autouse=True, scope="session")
def _frozen_imports() -> None:
    """Trainers collect garbage when they end; the objects of imported libraries are none and need no look."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _no_training_figures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny run's figures take longer than the run; tests marked `figure` have them drawn."""
    if request.node.get_closest_marker("figure") is None:
        for name in ("save_training_figure", "save_stage_figure"):
            monkeypatch.setattr(f"mixdpo.training.run_folder.{name}", lambda metrics, folder: None)


@pytest.fixture(autouse=True, scope="session")
def _one_thread_per_worker() -> None:
    # Several threads per pytest worker on few cores only wait for each other.
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)


TEXT_ROWS = [
    {"prompt": "Two and two?", "chosen": "Four.", "rejected": "Five.", "score_chosen": 5.0, "score_rejected": 1.0},
    {"prompt": "A colour?", "chosen": "Red.", "rejected": "Dog.", "score_chosen": 4.0, "score_rejected": 4.0},
    {"prompt": "A dog's name?", "chosen": "Rex.", "rejected": "Felix.", "score_chosen": 2.0, "score_rejected": 3.0},
]


@pytest.fixture(scope="session")
def _caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folders for the caches of one test after the other; pytest looks at all that there are for the next number."""
    folder = tmp_path_factory.mktemp("caches")
    return (folder / str(number) for number in count())


@pytest.fixture(autouse=True)
def _own_cache(_caches: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or fills the user's caches."""
    folder = next(_caches)
    monkeypatch.setenv("MIXDPO_CACHE", str(folder / "mixdpo"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "datasets")


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Number of pairs of every part of a forward pass over pairs; empty while none runs."""
    counts: list[int] = []
    original = cached_logprobs.forward_pass

    def counting(index: Any, *arguments: Any):
        counts.append(len(index))
        return original(index, *arguments)

    monkeypatch.setattr(cached_logprobs, "forward_pass", counting)
    return counts


@pytest.fixture
def server() -> Iterator[Endpoint]:
    """An endpoint whose every answer is m."""
    pytest.importorskip("openai", reason="calls to an endpoint need the extra eval")
    with running(lambda body: "m") as endpoint:
        yield endpoint


@pytest.fixture
def text_rows() -> list[dict[str, Any]]:
    return [dict(row) for row in TEXT_ROWS]


@pytest.fixture
def chat_rows() -> list[dict[str, Any]]:
    def message(role: str, content: str) -> dict[str, str]:
        return {"role": role, "content": content}

    return [
        {
            "prompt": [message("system", "Be brief."), message("user", row["prompt"])],
            "chosen": [message("assistant", row["chosen"])],
            "rejected": [message("assistant", row["rejected"])],
            "score_chosen": row["score_chosen"],
            "score_rejected": row["score_rejected"],
        }
        for row in TEXT_ROWS
    ]


@pytest.fixture
def jsonl(tmp_path: Path) -> Callable[..., str]:
    """Write rows (or raw lines) as a JSON lines file and return its path."""

    def write(rows: Iterable[Any], name: str = "pairs.jsonl") -> str:
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path = tmp_path / name
        path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def refused() -> Callable[..., InputError]:
    """Run something that must raise InputError with one line that holds all the given words."""

    def check(run: Callable[[], Any], *words: str) -> InputError:
        with pytest.raises(InputError) as caught:
            run()
        message = str(caught.value)
        assert "\n" not in message
        assert caught.value.exit_status == 2
        for word in words:
            assert word in message, f"{word!r} is not in: {message}"
        return caught.value

    return check
