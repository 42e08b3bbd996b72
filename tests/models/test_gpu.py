"""What only a GPU computes, against the same in float32 on the CPU; skipped without one.

In the order in which a failure says most, for `pytest -x` on a machine that is there for minutes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from transformers import TrainerCallback

from mixdpo import MixDPOConfig, MixDPOTrainer, make_plan
from mixdpo.generation.generation_settings import SamplingSettings
from mixdpo.generation.local_generation import generate_answers
from mixdpo.models.engine import (
    PromptGroup,
    completion_logprobs,
    liger_kernels,
    pack_rows,
    pad_rows,
    prepare_packing,
    to_device,
    use_layer_kernels,
    use_plain_rotary,
)
from mixdpo.models.engine.attention import FLEX_ATTENTION
from mixdpo.models.engine.lm_head import target_scores
from mixdpo.models.engine.norms import use_lean_norms
from prompt_groups import expected_logprobs, gradients, groups_of, tiny
from synthetic import chat_pairs

GPU = torch.device("cuda")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
    pytest.mark.filterwarnings("ignore"),
]

# Rows of less than one block, of one, of some, and of many; lengths that are whole blocks and that are not.
ROWS = [
    groups_of((5, [7, 3]), (1, [1]), (9, [2, 12])),
    groups_of((60, [20, 21])),
    groups_of((64, [32, 32])),
    groups_of((65, [32, 32])),
    groups_of((60, [68, 128]), (30, [70, 180])),
    groups_of((200, [300, 90]), (0, [40]), (17, [260, 5]), (128, [128, 128])),  # through FlexAttention
]


@pytest.fixture(autouse=True)
def _compiled_anew() -> Iterator[None]:
    """PyTorch compiles a function eight times at most; together these tests have more kinds of input."""
    yield
    torch._dynamo.reset()


@contextmanager
def nothing_waits() -> Iterator[None]:
    """Raise where the host waits for the GPU."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def on_gpu(plain: nn.Module, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A copy on the GPU, ready for packed rows through FlexAttention."""
    model = copy.deepcopy(plain).to(GPU, dtype)
    assert prepare_packing(model, on_gpu=True) is None
    assert model.config._attn_implementation == FLEX_ATTENTION
    return model


def packed(model: nn.Module, groups: list[PromptGroup]) -> torch.Tensor:
    return completion_logprobs(model, to_device(pack_rows(groups), GPU))


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("Llama", {"num_attention_heads": 8, "num_key_value_heads": 2}),
        ("Llama", {}),
        ("Mistral", {"num_attention_heads": 6, "sliding_window": 50}),  # narrower than its rows, three heads a key
    ],
    ids=["four heads a key", "two heads a key", "sliding window"],
)
def test_packed_rows_equal_the_plain_forward_in_float32(family, changes) -> None:
    plain = tiny(family, head_dim=64, max_position_embeddings=1024, **changes)
    model = on_gpu(plain)
    for groups in ROWS:
        values, expected = packed(model, groups), expected_logprobs(plain, groups)
        torch.testing.assert_close(values.cpu(), expected, atol=1e-4, rtol=1e-5)
        ours, theirs = gradients(model, values), gradients(plain, expected)
        largest = max(float(gradient.abs().max()) for gradient in theirs)
        for a, b in zip(ours, theirs, strict=True):
            scale = max(float(b.abs().max()), 1e-2 * largest)
            torch.testing.assert_close(a.cpu() / scale, b / scale, atol=1e-4, rtol=0)


@pytest.mark.parametrize("weights", ["bfloat16", "float32"])
def test_packed_rows_err_like_the_plain_forward_in_bfloat16(weights) -> None:
    plain = tiny("Llama", head_dim=64, max_position_embeddings=1024, initializer_range=0.05)
    model = on_gpu(plain, getattr(torch, weights))
    unpacked = copy.deepcopy(plain).to(GPU, getattr(torch, weights))
    ours, theirs = [], []
    for groups in ROWS:
        with torch.no_grad():
            exact = expected_logprobs(plain, groups)
        with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
            ours.append(packed(model, groups).cpu() - exact)
            theirs.append(completion_logprobs(unpacked, to_device(pad_rows(groups, 0), GPU)).cpu() - exact)
    assert torch.cat(ours).square().mean() < 2 * torch.cat(theirs).square().mean()


def test_narrow_heads_go_without_flex_attention() -> None:
    plain = tiny("Llama", head_dim=8, max_position_embeddings=1024)
    values = packed(on_gpu(plain), ROWS[-1])
    torch.testing.assert_close(values.cpu(), expected_logprobs(plain, ROWS[-1]), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocabulary", [1000, 40_000])
def test_head_equals_log_softmax(vocabulary, dtype) -> None:
    torch.manual_seed(0)
    head = nn.Linear(64, vocabulary, bias=False, device=GPU, dtype=dtype)
    for tokens in (1, 21, 300):
        hidden = torch.randn(tokens, 64, device=GPU, dtype=dtype, requires_grad=True)
        target = torch.randint(0, vocabulary, (tokens,), device=GPU)
        log_softmax = (hidden.double() @ head.weight.double().t()).log_softmax(1)
        expected = log_softmax.gather(1, target[:, None])[:, 0]
        ours = target_scores(head, head.forward, hidden, target, alignment=True)
        alignment = expected - (2 * log_softmax).logsumexp(1)
        close = {"atol": 1e-4, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 0.02, "rtol": 0.005}
        torch.testing.assert_close(ours.double(), torch.stack([expected, alignment], 1), **close)
        inputs = (hidden, head.weight)
        for a, b in zip(
            torch.autograd.grad(ours[:, 0].sum(), inputs), torch.autograd.grad(expected.sum(), inputs), strict=True
        ):
            torch.testing.assert_close(a, b, atol=0.02 * float(b.abs().max()), rtol=0.01)


def test_head_keeps_less_than_all_logits() -> None:
    """8,192 tokens of 128,256 logits are 2.1 GB in bfloat16, and 4.2 GB in float32."""
    head = nn.Linear(256, 128_256, bias=False, device=GPU, dtype=torch.bfloat16)
    hidden = torch.randn(8192, 256, device=GPU, dtype=torch.bfloat16, requires_grad=True)
    target = torch.randint(0, 128_256, (8192,), device=GPU)
    target_scores(head, head.forward, hidden[:64], target[:64]).sum().backward()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    target_scores(head, head.forward, hidden, target).sum().backward()
    assert torch.cuda.max_memory_allocated() - before < 1.8e9


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms_equal_their_definition(dtype) -> None:
    model = tiny("Llama", head_dim=64).to(GPU, dtype)
    use_lean_norms(model)
    norm = model.model.norm
    x = torch.randn(70, 32, device=GPU, dtype=dtype, requires_grad=True)
    exact = x.double()
    exact = exact * (exact.square().mean(-1, keepdim=True) + norm.variance_epsilon).rsqrt() * norm.weight.double()
    with torch.autocast("cuda", torch.bfloat16):
        ours = norm(x)
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours.double(), exact, rtol=0.01, atol=0.01)
    for a, b in zip(
        torch.autograd.grad(ours.float().sum(), (x, norm.weight)),
        torch.autograd.grad(exact.sum(), (x, norm.weight)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=0.02 * float(b.abs().max()), rtol=0.01)


@pytest.mark.parametrize("family", ["Llama", "Gemma"])
def test_ligers_kernels_give_what_layers_give(family) -> None:
    pytest.importorskip("liger_kernel")
    plain = tiny(family, head_dim=64)
    model = copy.deepcopy(plain).to(GPU)
    replaced = use_layer_kernels(model, liger_kernels(), GPU, torch.bfloat16)
    assert not replaced.kept, str(replaced)
    expected = completion_logprobs(plain, pad_rows(ROWS[0], 0))
    values = completion_logprobs(model, to_device(pad_rows(ROWS[0], 0), GPU))
    torch.testing.assert_close(values.cpu(), expected, atol=1e-3, rtol=1e-4)
    expected.sum().backward()
    values.sum().backward()
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad.cpu(), theirs.grad, atol=1e-3 * float(theirs.grad.abs().max()), rtol=1e-3)
    use_plain_rotary(model)


def test_rows_of_other_lengths_compile_nothing_and_wait_for_nothing() -> None:
    model = on_gpu(tiny("Llama", head_dim=64, max_position_embeddings=1024), torch.bfloat16)
    for groups in ROWS[3:]:
        packed(model, groups).sum().backward()
    compiled = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for length in (150, 233, 310, 421):
        groups = groups_of((length, [length + 40, length]), (60, [length]))
        with nothing_waits():
            packed(model, groups).sum().backward()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == compiled


class Watch(TrainerCallback):
    """Lets nothing wait for the GPU from the third step to the last."""

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        if state.global_step == 2:
            torch.cuda.synchronize()
            torch.cuda.set_sync_debug_mode("error")

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if state.global_step == state.max_steps - 1:
            torch.cuda.set_sync_debug_mode("default")


def test_a_run_equals_that_on_the_cpu_and_its_steps_wait_for_nothing(tokenizer, tmp_path) -> None:
    model = tiny("Llama", head_dim=64, vocab_size=len(tokenizer))
    pairs = chat_pairs(tmp_path, 40)

    def loss(name: str, *callbacks: TrainerCallback, **changes) -> float:
        args = MixDPOConfig(
            output_dir=str(tmp_path / name), per_device_train_batch_size=4, learning_rate=1e-3, logging_steps=1000,
            save_strategy="no", disable_tqdm=True, beta=0.1, max_length=256, reference_cache=False, **changes,
        )  # fmt: skip
        trainer = MixDPOTrainer(
            copy.deepcopy(model), args=args, train_dataset=pairs, plan=make_plan(pairs), processing_class=tokenizer,
            callbacks=callbacks,
        )  # fmt: skip
        return trainer.train().training_loss

    expected = loss("cpu", bf16=False, use_cpu=True)
    assert math.isclose(loss("gpu", bf16=False), expected, rel_tol=1e-3)
    assert math.isclose(loss("rounded"), expected, rel_tol=0.05)
    try:
        loss("watched", Watch())  # of rows that were compiled by the run before
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_answers_equal_those_of_the_cpu(tokenizer) -> None:
    model = tiny("Llama", head_dim=64, vocab_size=len(tokenizer))
    prompts = [[{"role": "user", "content": text}] for text in ("Tea?", "How do I make tea?", "A cat and a dog.")]
    settings = SamplingSettings(max_new_tokens=20)
    expected = generate_answers(model, tokenizer, prompts, settings=settings)
    assert generate_answers(model.to(GPU), tokenizer, prompts, settings=settings) == expected


def test_plain_attention_serves_where_flex_attention_was_not_asked_for() -> None:
    plain = tiny("Llama", head_dim=64, max_position_embeddings=1024)
    model = copy.deepcopy(plain).to(GPU)
    assert prepare_packing(model, on_gpu=False) is None
    values = packed(model, ROWS[-1])
    torch.testing.assert_close(values.cpu(), expected_logprobs(plain, ROWS[-1]), atol=1e-4, rtol=1e-5)
