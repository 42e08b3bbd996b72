"""FlexAttention of packed rows on a CPU: its mask, the choice of its kernels, and the trial before it is used."""

from __future__ import annotations

import copy
import logging
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from graphs import Counting
from mixdpo.models.engine import PromptGroup, completion_logprobs, pack_rows, prepare_packing
from mixdpo.models.engine import attention as attention_module
from mixdpo.models.engine import flex as flex_module
from mixdpo.models.engine import support as support_module
from mixdpo.models.engine.attention import FLEX_ATTENTION, PACKED_ATTENTION, packed_attention
from mixdpo.models.engine.flex import _backward_bytes, _forward_bytes, kernel_options
from mixdpo.models.engine.flex_mask import BLOCK, additive_mask, block_mask, visible
from mixdpo.models.engine.flex_trial import HeadShape, flex_fault
from mixdpo.models.engine.rows import PackedLayout
from prompt_groups import expected_logprobs, groups_of, tiny

CPU = torch.device("cpu")
KB = 1024
# Shared memory that a block of threads may have, in bytes: T4; RTX 3090, 4090, 5090, L4 and A10; A100; H100 and H200.
CARDS = {"T4": 64 * KB, "4090": 99 * KB, "A100": 163 * KB, "H100": 227 * KB}
TYPES = {"bfloat16": 2, "float16": 2, "float32": 4}


# ---- mask ----


Shapes = list[tuple[int, list[int]]]
SHAPES = st.lists(
    st.tuples(st.integers(0, 400), st.lists(st.integers(0, 400), min_size=1, max_size=3)), min_size=1, max_size=3
).filter(lambda shapes: any(prompt + sum(lengths) for prompt, lengths in shapes))


def layout_of(shapes: Shapes) -> PackedLayout:
    return pack_rows([PromptGroup([1] * prompt, [[1] * n for n in lengths]) for prompt, lengths in shapes])["layout"]


def dense_mask(shapes: Shapes, window: int | None) -> Tensor:
    """Which key (column) a query (row) sees, bool (S, S): written from what a packed row is."""
    owner = [
        (number, part, place)
        for number, (prompt, lengths) in enumerate(shapes)
        for part, (first, length) in enumerate([(0, prompt), *((prompt, length) for length in lengths)])
        for place in range(first, first + length)
    ]
    group, part, place = torch.tensor(owner).T
    same = (group[:, None] == group) & ((part == 0) | (part[:, None] == part))
    distance = place[:, None] - place
    return same & (distance >= 0) & (distance < (window or len(owner)))


@pytest.mark.parametrize("window", [None, 2000, 150, 5])
@settings(max_examples=12, deadline=None)
@given(shapes=SHAPES)
def test_mask_shows_the_prompt_and_the_own_completion(window, shapes) -> None:
    layout, expected = layout_of(shapes), dense_mask(shapes, window)
    token = torch.arange(len(expected))
    found = visible(layout, window, CPU)(torch.tensor(0), torch.tensor(0), token[:, None], token)
    assert torch.equal(found, expected)

    blocks = block_mask.__wrapped__(layout, window, CPU)
    asked = create_block_mask(lambda b, h, q, k: expected[q, k], None, None, *expected.shape, device="cpu")
    assert blocks.shape == asked.shape
    for name in ("kv_num_blocks", "full_kv_num_blocks", "q_num_blocks", "full_q_num_blocks"):
        assert torch.equal(getattr(blocks, name), getattr(asked, name))
    assert torch.equal(blocks.to_dense(), asked.to_dense())
    for name in ("kv_indices", "full_kv_indices", "q_indices", "full_q_indices"):
        assert getattr(blocks, name).dtype == torch.int32
        assert getattr(blocks, name).is_contiguous()


def test_all_layers_of_a_row_share_one_mask() -> None:
    layout = layout_of([(100, [90, 80])])
    assert block_mask(layout, None, CPU) is block_mask(layout, None, CPU)
    assert block_mask(layout, None, CPU) is not block_mask(layout_of([(100, [90, 80])]), None, CPU)


@pytest.mark.parametrize("window", [None, 40])
@pytest.mark.parametrize("heads", [(6, 2), (2, 2)], ids=["shared heads", "own heads"])
def test_short_rows_are_one_product_under_a_mask(heads, window) -> None:
    shapes: Shapes = [(30, [70, 80]), (0, [9]), (200, [1, 130])]
    layout, expected = layout_of(shapes), dense_mask(shapes, window)
    mask = additive_mask(layout, window, CPU, torch.float32)
    assert torch.equal(mask == 0, expected)
    assert torch.equal(mask == -torch.inf, ~expected)
    assert mask.stride(0) % 16 == 0, "other masks are copied by the kernels"
    assert mask is additive_mask(layout, window, CPU, torch.float32)

    generator = torch.Generator().manual_seed(0)
    inputs = [
        torch.randn(1, number, len(expected), 16, generator=generator).requires_grad_()
        for number in (heads[0], heads[1], heads[1])
    ]
    ways = (
        packed_attention(nn.Module(), *inputs, None, packed_layout=layout, sliding_window=window, flex=flex)[0]
        for flex in (True, False)
    )
    masked, plain = ways
    torch.testing.assert_close(masked, plain)
    weights = torch.randn(masked.shape, generator=generator)
    of_masked, of_plain = (torch.autograd.grad(out, inputs, weights) for out in (masked, plain))
    for ours, theirs in zip(of_masked, of_plain, strict=True):
        torch.testing.assert_close(ours, theirs)


# ---- kernels ----


def options_for(width: int, name: str, card: str) -> dict[str, int]:
    rounded = 1 << (width - 1).bit_length()
    return kernel_options(rounded * TYPES[name], TYPES[name], CARDS[card])


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("width", [64, 80, 96, 128, 160, 256])
def test_chosen_tiles_fit_the_card(width, name, card) -> None:
    options = options_for(width, name, card)
    row_bytes = (1 << (width - 1).bit_length()) * TYPES[name]
    if options:
        tile = options["fwd_BLOCK_M"], options["fwd_BLOCK_N"], options["fwd_num_stages"]
        assert _forward_bytes(row_bytes, TYPES[name], *tile) < CARDS[card]
        assert all(BLOCK % options[side] == 0 for side in options if "BLOCK" in side)
    if "bwd_BLOCK_M1" in options:
        assert _backward_bytes(row_bytes, options["bwd_BLOCK_M1"]) <= CARDS[card]


@pytest.mark.parametrize(
    ("width", "name", "card", "expected"),
    [
        (128, "bfloat16", "4090", {}),  # what PyTorch chooses fits, and was measured to be fast
        (256, "bfloat16", "H100", {}),
        (128, "float32", "H100", {}),
        (256, "bfloat16", "4090", {"forward": (32, 64, 2), "backward": 32}),
        (160, "float16", "4090", {"forward": (32, 64, 2), "backward": 32}),
        (160, "bfloat16", "A100", {"forward": (32, 64, 3)}),
        (128, "float16", "T4", {"forward": (32, 64, 2), "backward": 32}),
        (256, "float16", "T4", {"forward": (32, 16, 2)}),  # (32, 32, 2) takes all 64 KB, and PyTorch refuses that
        (256, "float32", "T4", {"forward": (16, 16, 2)}),
        (160, "float32", "H100", {"forward": (32, 64, 2)}),
    ],
)
def test_tiles_by_head_type_and_card(width, name, card, expected) -> None:
    options = options_for(width, name, card)
    forward = tuple(options[f"fwd_{key}"] for key in ("BLOCK_M", "BLOCK_N", "num_stages") if f"fwd_{key}" in options)
    assert forward == expected.get("forward", ())
    assert options.get("bwd_BLOCK_M1") == options.get("bwd_BLOCK_N2") == expected.get("backward")


# Shared memory that `ptxas` and Triton 3.6 report, in bytes, of forward tiles in 16 bits for the largest rows they are
# chosen for: on a T4, on cards with 99 KB, and on an A100.
MEASURED: dict[tuple[int, tuple[int, int, int]], int] = {
    (256, (32, 64, 2)): 49_152,
    (512, (32, 32, 2)): 65_536,
    (512, (32, 64, 2)): 86_016,
    (512, (32, 64, 3)): 153_088,
}


@pytest.mark.parametrize(("row_bytes", "tile"), MEASURED)
def test_estimate_covers_what_the_compiler_reports(row_bytes, tile) -> None:
    assert MEASURED[row_bytes, tile] <= _forward_bytes(row_bytes, 2, *tile)


@pytest.mark.parametrize(("row_bytes", "side", "measured"), [(256, 64, 68_864), (512, 32, 70_272), (512, 64, 136_448)])
def test_estimate_covers_what_the_compiler_reports_backward(row_bytes, side, measured) -> None:
    assert measured <= _backward_bytes(row_bytes, side)


# ---- trial ----


def plain_kernel(query: Tensor, key: Tensor, value: Tensor, block_mask, enable_gqa: bool) -> Tensor:
    """What the kernel computes, by dense attention under its mask."""
    token = torch.arange(query.shape[2])
    seen = block_mask.mask_mod(None, None, token[:, None], token)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=seen, enable_gqa=enable_gqa)


def failing_kernel(*args, **kwargs) -> Tensor:
    raise RuntimeError("No valid triton configs.\nout of resource: triton_tem_fused_flex_attention_0 Required: 153088")


class _NoBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return failing_kernel()


def kernel_without_backward(*args, **kwargs) -> Tensor:
    return _NoBackward.apply(plain_kernel(*args, **kwargs))


@pytest.fixture
def kernel(monkeypatch):
    """A function that sets what the compiled FlexAttention does."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    return lambda function: monkeypatch.setattr(flex_module, "_compiled", lambda *_: function)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_trial_accepts_the_right_values(kernel, dtype) -> None:
    kernel(plain_kernel)
    shapes = [HeadShape(6, 2, 64, 64, dtype), HeadShape(2, 2, 48, 32, dtype)]
    assert flex_fault(shapes, CPU, trains=True) is None
    assert flex_fault(shapes, CPU, trains=False) is None


@pytest.mark.parametrize(
    ("function", "when_trained", "when_frozen"),
    [
        (failing_kernel, "out of resource", "out of resource"),
        (kernel_without_backward, "out of resource", None),
        (lambda *args, **kwargs: 1.2 * plain_kernel(*args, **kwargs), "wrong", "wrong"),
        (lambda *args, **kwargs: torch.nan * plain_kernel(*args, **kwargs), "wrong", "wrong"),
    ],
    ids=["fails", "fails backward", "wrong", "not a number"],
)
def test_trial_says_what_is_wrong(kernel, function, when_trained, when_frozen) -> None:
    kernel(function)
    for trains, expected in ((True, when_trained), (False, when_frozen)):
        fault = flex_fault([HeadShape(4, 2, 16, 16, torch.float32)], CPU, trains)
        assert (fault is None) == (expected is None)
        assert expected is None or (expected in fault and "\n" not in fault)


def test_trial_needs_triton(monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "Triton" in (flex_fault([], CPU, trains=True) or "")


@pytest.mark.parametrize("function", [plain_kernel, failing_kernel, kernel_without_backward])
def test_a_model_falls_back_before_it_trains(kernel, function, monkeypatch, caplog) -> None:
    kernel(function)
    asked = []

    def on_cpu(shapes, device, trains):
        asked.append((list(shapes), device.type, trains))
        return flex_fault(shapes, CPU, trains)

    monkeypatch.setattr(support_module, "flex_fault", on_cpu)
    support_module._tell_of_fallback.cache_clear()
    plain = tiny("Llama", head_dim=16)
    model, reference = copy.deepcopy(plain), copy.deepcopy(plain)
    with caplog.at_level(logging.WARNING):
        for one in (model, reference):
            assert prepare_packing(one, on_gpu=True, autocast=torch.bfloat16) is None
    assert asked[0] == ([HeadShape(4, 2, 16, 16, torch.bfloat16)], "cuda", True)
    runs = function is plain_kernel
    assert model.config._attn_implementation == (FLEX_ATTENTION if runs else PACKED_ATTENTION)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == (0 if runs else 1), "one line, not one for each model"
    assert runs or ("scaled_dot_product_attention" in lines[0] and "out of resource" in lines[0])
    groups = groups_of((60, [70, 30]), (5, [4, 3]))
    torch.testing.assert_close(
        completion_logprobs(model, pack_rows(groups)), expected_logprobs(plain, groups), atol=1e-4, rtol=1e-5
    )


def test_a_model_that_is_frozen_tries_no_backward_and_a_chosen_attention_is_kept(kernel, monkeypatch) -> None:
    kernel(kernel_without_backward)
    monkeypatch.setattr(support_module, "flex_fault", lambda shapes, _, trains: flex_fault(shapes, CPU, trains))
    frozen = tiny("Llama", head_dim=16).requires_grad_(False)
    assert prepare_packing(frozen, on_gpu=True) is None
    assert frozen.config._attn_implementation == FLEX_ATTENTION
    chosen = tiny("Llama", attn_implementation=PACKED_ATTENTION)
    assert prepare_packing(chosen, on_gpu=True) is None
    assert chosen.config._attn_implementation == PACKED_ATTENTION


# ---- compilation ----


@pytest.mark.slow
def test_it_is_compiled_once_a_kind_and_has_the_gradients(monkeypatch) -> None:
    """What a GPU compiles, computed by PyTorch's own operations; of the backward pass a CPU has no kernel."""
    monkeypatch.setattr("torch.nn.attention.flex_attention._validate_device", lambda *_: None)
    monkeypatch.setattr(attention_module, "MASKED_LENGTH", BLOCK)
    counting = Counting("flex_attention")
    compiled = torch.compile(flex_attention, dynamic=True, backend=counting)
    monkeypatch.setattr(flex_module, "_compiled", lambda *_: compiled)
    generator = torch.Generator().manual_seed(0)
    rows = [(30, [70, 80]), (60, [20, 150])], [(200, [1, 130])], [(100, [90, 40])], [(300, [300, 290])]
    for shapes, window, learns in product(rows, (None, 50), (True, False)):
        layout = pack_rows(groups_of(*shapes))["layout"]
        tokens = sum(prompt + sum(lengths) for prompt, lengths in shapes)
        inputs = [torch.randn(1, heads, tokens, 16, generator=generator).requires_grad_() for heads in (6, 2, 2)]
        with torch.set_grad_enabled(learns):
            flex, plain = (
                packed_attention(
                    nn.Module(), *inputs, None, packed_layout=layout, sliding_window=window, flex=flex
                )[0]
                for flex in (True, False)
            )  # fmt: skip
        torch.testing.assert_close(flex, plain)
        if learns:
            weights = torch.randn(flex.shape, generator=generator)
            of_flex, of_plain = (torch.autograd.grad(out, inputs, weights) for out in (flex, plain))
            for ours, theirs in zip(of_flex, of_plain, strict=True):
                torch.testing.assert_close(ours, theirs)
    assert counting.graphs == 2, "with gradients and without, windows or not"
    torch._dynamo.reset()
