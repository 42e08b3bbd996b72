"""Sharded weights: a run computes what it computes unsharded. FSDP2 runs in one process, DeepSpeed is a stub."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import ParallelismConfig
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from torch import distributed
from torch.distributed.fsdp import CPUOffloadPolicy

from mixdpo import MixDPOConfig, MixDPOTrainer, make_plan
from mixdpo.common.errors import RunError
from mixdpo.training import trainer as trainer_module
from mixdpo.training.preparation import check_layout
from process_kinds import KINDS
from synthetic import chat_pairs
from tiny import tiny_llama
from trainers import config, step_logs


@pytest.fixture
def shard(monkeypatch) -> Iterator[Callable[[MixDPOConfig], MixDPOConfig]]:
    """Have the next trainer of these settings run under FSDP2."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)

    def prepare(args: MixDPOConfig) -> MixDPOConfig:
        assert args.device.type == "cpu"  # asking makes the state that is changed here
        # Accelerate shards on accelerators alone, though torch shards on a CPU as well.
        monkeypatch.setitem(PartialState._shared_state, "distributed_type", DistributedType.MULTI_GPU)
        for name, value in KINDS["fsdp2"].environment.items():
            monkeypatch.setenv(name, value)
        return args

    yield prepare
    distributed.destroy_process_group()
    AcceleratorState._reset_state(reset_partial_state=True)


def trainer_of(tokenizer, args: MixDPOConfig, pairs) -> MixDPOTrainer:
    return MixDPOTrainer(
        tiny_llama(vocab_size=len(tokenizer)), args=args, train_dataset=pairs, plan=make_plan(pairs, "dpo"),
        processing_class=tokenizer,
    )  # fmt: skip


def test_log_probabilities_are_not_rounded(tokenizer, tmp_path, shard) -> None:
    pairs = chat_pairs(tmp_path, n=8)
    settings = {"bf16": True, "warmup_steps": 0}
    trainer_of(tokenizer, config(tmp_path / "whole", **settings), pairs).train()
    sharded = trainer_of(tokenizer, shard(config(tmp_path / "sharded", **settings)), pairs)
    sharded.train()
    reference = torch.from_numpy(sharded.train_dataset.reference)
    assert not torch.equal(reference, reference.bfloat16().float())
    logs = [step_logs(tmp_path / name) for name in ("whole", "sharded")]
    for name in ("loss", "logps/chosen", "logps/rejected"):  # the forward passes are bfloat16, so only about the same
        np.testing.assert_allclose(*[[m[name] for m in log] for log in logs], rtol=0.02, err_msg=name)


def test_a_wrapper_that_rounds_is_found_out(tokenizer, tmp_path, shard, monkeypatch) -> None:
    monkeypatch.setattr(trainer_module, "prepare_sharding", lambda *arguments: None)
    pairs = chat_pairs(tmp_path, n=8)
    trainer = trainer_of(tokenizer, shard(config(tmp_path / "run", bf16=True)), pairs)
    with pytest.raises(RunError, match="rounds log-probabilities to bfloat16"):
        trainer.train()


def test_a_reference_that_follows_is_refused_at_the_start(tokenizer, tmp_path, shard, refused) -> None:
    args = shard(config(tmp_path / "run", sync_ref_model=True, precompute_ref_log_probs=False))
    pairs = chat_pairs(tmp_path, n=4)
    refused(lambda: trainer_of(tokenizer, args, pairs), "sync_ref_model does not work", "sharded by FSDP")


def test_batches_cut_by_tokens_and_over_steps_give_the_same_losses(tokenizer, tmp_path, shard) -> None:
    pairs = chat_pairs(tmp_path, n=8)
    trainer_of(tokenizer, config(tmp_path / "whole"), pairs).train()
    cut = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_tokens_per_batch": 1}
    args = shard(config(tmp_path / "cut", **cut))
    trainer = trainer_of(tokenizer, args, pairs)
    reduced = []
    backward = trainer.accelerator.backward

    def watched(loss, **kwargs) -> None:
        backward(loss, **kwargs)
        reduced.append(all(hasattr(p.grad, "to_local") for p in trainer.model_wrapped.parameters()))

    trainer.accelerator.backward = watched
    trainer.train()
    losses = [[m["loss"] for m in step_logs(tmp_path / name)] for name in ("whole", "cut")]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    assert reduced == [True] * 8  # after each micro-batch of one pair, and no process holds whole gradients


@pytest.mark.parametrize(
    ("layout", "refusal"),
    [
        ({"parallelism_config": ParallelismConfig(cp_size=2)}, "context"),
        ({"parallelism_config": ParallelismConfig(tp_size=2)}, "tensor"),
        ({"distributed_type": DistributedType.FSDP, "is_fsdp2": False}, "FSDP1"),
        ({"distributed_type": DistributedType.FSDP, "offload": CPUOffloadPolicy()}, "fsdp_offload_params"),
        ({"distributed_type": DistributedType.MEGATRON_LM}, "Megatron"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_layouts_that_were_not_compared_are_refused(refused, layout, refusal) -> None:
    offload = SimpleNamespace(fsdp_plugin=SimpleNamespace(cpu_offload=layout.pop("offload", False)))
    given = {"parallelism_config": None, "distributed_type": DistributedType.MULTI_GPU, "is_fsdp2": True, **layout}
    refused(lambda: check_layout(SimpleNamespace(state=offload, **given)), refusal)


def test_deepspeed_rounds_no_value_of_a_batch(tokenizer, tmp_path, monkeypatch) -> None:
    trainer = trainer_of(tokenizer, config(tmp_path / "run"), chat_pairs(tmp_path, n=4))
    trainer.train_dataset.reference[:] = -401.3
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.is_deepspeed_enabled = True
    plugin = SimpleNamespace(hf_ds_config=SimpleNamespace(dtype=lambda: torch.bfloat16))
    monkeypatch.setattr(AcceleratorState, "deepspeed_plugin", plugin)
    (part,) = trainer._prepare_inputs(batch)["parts"]
    assert {name for name, value in part.items() if getattr(value, "dtype", None) == torch.bfloat16} == set()
    torch.testing.assert_close(part["ref_chosen"], torch.full((4,), -401.3), rtol=0, atol=0)
