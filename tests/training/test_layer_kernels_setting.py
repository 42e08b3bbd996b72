"""What `use_liger_kernel` comes to, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from mixdpo.training import layer_kernels as module
from mixdpo.training.config import MixDPOConfig
from mixdpo.training.layer_kernels import apply_layer_kernels
from prompt_groups import tiny


@pytest.fixture
def on_gpu(monkeypatch):
    monkeypatch.setattr(MixDPOConfig, "device", torch.device("cuda"))


def settings(tmp_path, **changes) -> MixDPOConfig:
    return MixDPOConfig(output_dir=str(tmp_path), **changes)


def test_on_a_cpu_true_is_refused_and_null_is_false(tmp_path, refused) -> None:
    args = settings(tmp_path)
    apply_layer_kernels([tiny("Llama")], args)
    assert args.use_liger_kernel is False
    refused(lambda: apply_layer_kernels([], settings(tmp_path, use_liger_kernel=True)), "use_liger_kernel", "GPU")


def test_without_the_package_true_names_the_extra_and_null_is_false(tmp_path, refused, monkeypatch, on_gpu) -> None:
    def missing():
        raise ImportError("No module named 'liger_kernel'")

    monkeypatch.setattr(module, "liger_kernels", missing)
    error = refused(lambda: apply_layer_kernels([], settings(tmp_path, use_liger_kernel=True)), "liger-kernel")
    assert "[liger]" in str(error.hint)
    args = settings(tmp_path)
    apply_layer_kernels([], args)
    assert args.use_liger_kernel is False


def test_transformers_is_told_to_apply_nothing_of_it(tmp_path, refused, monkeypatch, on_gpu) -> None:
    used = []
    monkeypatch.setattr(module, "liger_kernels", lambda: "kernels")
    monkeypatch.setattr(module, "use_layer_kernels", lambda *arguments: used.append(arguments))
    args, model = settings(tmp_path), tiny("Llama")
    apply_layer_kernels([model], args)
    assert used == [(model, "kernels", torch.device("cuda"), torch.bfloat16 if args.bf16 else torch.float32)]
    assert args.use_liger_kernel is True
    assert args.liger_kernel_config["fused_linear_cross_entropy"] is False
    assert not any(args.liger_kernel_config.values())
    refused(
        lambda: apply_layer_kernels([], settings(tmp_path, liger_kernel_config={"rope": True})), "liger_kernel_config"
    )
    args = settings(tmp_path, use_liger_kernel=False)
    apply_layer_kernels([model], args)
    assert len(used) == 1
