"""The packed row against transformers' plain forward of every sequence by itself."""

from __future__ import annotations

import copy
from collections.abc import Callable
from unittest.mock import Mock

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn import functional as F

from graphs import Counting
from mixdpo.models.engine import (
    PromptGroup,
    completion_logprobs,
    pack_rows,
    pad_rows,
    prepare_packing,
)
from mixdpo.models.engine import attention as attention_module
from mixdpo.models.engine import tiles as tiles_module
from mixdpo.models.engine.attention import (
    FLEX_ATTENTION,
    PACKED_ATTENTION,
    UnsupportedAttention,
    packed_attention,
)
from mixdpo.models.engine.flex_mask import BLOCK
from mixdpo.models.engine.lm_head import scores_of_logits, target_scores
from mixdpo.models.engine.norms import LeanNorm, _RMSNorm, use_lean_norms
from prompt_groups import expected_logprobs, gradients, groups_of, tiny
from tiny import VOCABULARY, tiny_llama

WINDOW = {"sliding_window": 5}
MIXED = groups_of((5, [7, 3]), (1, [1]), (9, [2, 12]), (3, [30, 1]))


def assert_equal(model: nn.Module, plain: nn.Module, groups: list[PromptGroup]) -> None:
    packed = completion_logprobs(model, pack_rows(groups))
    expected = expected_logprobs(plain, groups)
    torch.testing.assert_close(packed, expected, atol=1e-4, rtol=1e-5)
    ours, theirs = gradients(model, packed), gradients(plain, expected)
    largest = max(float(gradient.abs().max()) for gradient in theirs)
    for a, b in zip(ours, theirs, strict=True):
        # A tensor whose gradient is all rounding (nothing to attend to but itself) is held against the largest.
        scale = max(float(b.abs().max()), 1e-2 * largest)
        torch.testing.assert_close(a / scale, b / scale, atol=1e-4, rtol=0)


# ---- shapes ----


@pytest.fixture(scope="module")
def pair_of_models():
    plain = tiny_llama(positions=1024)
    packed = copy.deepcopy(plain)
    assert prepare_packing(packed, on_gpu=False) is None
    return packed, plain


LENGTHS = st.one_of(st.integers(1, 12), st.integers(13, 300))
GROUPS = st.lists(st.tuples(st.integers(0, 60), st.lists(LENGTHS, min_size=1, max_size=2)), min_size=1, max_size=5)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(shapes=GROUPS, seed=st.integers(0, 2**20))
def test_random_shapes(pair_of_models, shapes, seed) -> None:
    if not any(prompt + length > 1 for prompt, lengths in shapes for length in lengths):
        return
    assert_equal(*pair_of_models, groups_of(*shapes, seed=seed))


@pytest.mark.parametrize(
    "groups",
    [
        groups_of((4, [1, 1])),
        groups_of((0, [3, 5]), (2, [1])),
        groups_of((0, [1, 4])),
        [PromptGroup([5, 6], [[7, 8], [7, 8]])],
        groups_of((300, [1, 250])),
    ],
    ids=["one-token", "empty-prompt", "nothing-scored", "identical", "long"],
)
def test_edge_shapes(pair_of_models, groups) -> None:
    assert_equal(*pair_of_models, groups)


def test_both_kernels_agree(pair_of_models, monkeypatch) -> None:
    monkeypatch.setattr(attention_module, "DENSE_LENGTH", 4)
    assert_equal(*pair_of_models, MIXED)
    assert_equal(*pair_of_models, groups_of((0, [9, 5]), (7, [1])))


def test_nothing_leaks(pair_of_models) -> None:
    model, _ = pair_of_models
    before = completion_logprobs(model, pack_rows(MIXED))
    number = 0
    for g, group in enumerate(MIXED):
        for c, completion in enumerate(group.completions):
            for position in range(len(completion)):
                changed = copy.deepcopy(MIXED)
                changed[g].completions[c][position] = 3 + (completion[position] + 1) % (VOCABULARY - 3)
                after = completion_logprobs(model, pack_rows(changed))
                others = torch.arange(len(before)) != number
                torch.testing.assert_close(after[others], before[others], atol=1e-5, rtol=0)
                assert not torch.isclose(after[number], before[number], atol=1e-5)
            number += 1


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("name", ["llama", "mistral-window", "gemma3"])
def test_flex_attention_gives_the_same_values(name, autocast, monkeypatch) -> None:
    """The kernel of GPUs, computed by PyTorch without compiling it; a CPU has no backward pass of it."""
    family, changes = PACKED[name]
    plain = tiny(family, head_dim=16, **changes)
    model = copy.deepcopy(plain)
    assert prepare_packing(model, on_gpu=False) is None
    groups = [*MIXED, *groups_of((40, [20, 30]), seed=1)]  # more than one block
    monkeypatch.setattr(attention_module, "MASKED_LENGTH", BLOCK)
    asked = Mock(wraps=attention_module.flex_segments)
    monkeypatch.setattr(attention_module, "flex_segments", asked)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        padded = completion_logprobs(plain, pad_rows(groups, 0))
        model.set_attn_implementation(FLEX_ATTENTION)
        with torch.compiler.set_stance("force_eager"):
            flex = completion_logprobs(model, pack_rows(groups))
            assert asked.called
            asked.reset_mock()
            short = completion_logprobs(model, pack_rows(MIXED))
            assert not asked.called, "short rows have another kernel on a GPU"
    torch.testing.assert_close(short, flex[: len(short)], atol=0.1 if autocast else 1e-4, rtol=1e-5)
    with torch.no_grad():
        expected = expected_logprobs(plain, groups)
    if not autocast:
        torch.testing.assert_close(flex, expected, atol=1e-4, rtol=1e-5)
    else:
        assert (flex - expected).square().mean() < 2 * (padded - expected).square().mean()


# ---- models ----


PACKED = {
    "llama": ("Llama", {}),
    "llama-tied": ("Llama", {"tie_word_embeddings": True}),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", {}),
    "qwen2-window": ("Qwen2", {**WINDOW, "use_sliding_window": True, "max_window_layers": 1}),
    "mistral-window": ("Mistral", WINDOW),
    "gemma": ("Gemma", {}),
    "gemma3": ("Gemma3Text", {**WINDOW, "layer_types": ["sliding_attention", "full_attention"]}),
    "smollm3": ("SmolLM3", {}),
    "phi": ("Phi", {}),
    "phi3": ("Phi3", {}),
    "gpt-neox": ("GPTNeoX", {}),
    "gpt2": ("GPT2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}),
    "olmo2": ("Olmo2", {}),
    "granite": ("Granite", {}),
}
REFUSED = {
    "gemma2": ("Gemma2", {}, "its attention"),
    "bloom": ("Bloom", {"n_layer": 2, "n_head": 4}, "eager"),
    "mamba": ("Mamba", {"state_size": 4}, "linear_attention"),
    "qwen3-next": ("Qwen3Next", {"layer_types": ["linear_attention", "full_attention"]}, "linear_attention"),
}


@pytest.mark.parametrize("name", PACKED)
def test_families(name) -> None:
    family, changes = PACKED[name]
    plain = tiny(family, **changes)
    model = copy.deepcopy(plain)
    assert prepare_packing(model, on_gpu=False) is None
    assert_equal(model, plain, MIXED)


@pytest.mark.parametrize("name", REFUSED)
def test_others_are_refused_and_left_as_they_were(name) -> None:
    family, changes, reason = REFUSED[name]
    model = tiny(family, **changes)
    before = model.config._attn_implementation
    refusal = prepare_packing(model, on_gpu=False)
    assert refusal is not None
    assert reason in refusal
    assert model.config._attn_implementation == before


@pytest.mark.parametrize("extra", [{"softcap": 50.0}, {"dropout": 0.1}, {"is_causal": False}])
def test_attention_of_another_kind_is_refused(extra) -> None:
    layout = pack_rows(MIXED)["layout"]
    query = torch.randn(1, 2, 100, 4)
    with pytest.raises(UnsupportedAttention):
        packed_attention(nn.Module(), query, query, query, None, packed_layout=layout, **extra)


def test_an_attention_that_was_chosen_is_kept() -> None:
    model = tiny("Llama", attn_implementation="eager")
    assert "eager" in (prepare_packing(model, on_gpu=False) or "")


@pytest.mark.parametrize("attention", [PACKED_ATTENTION, FLEX_ATTENTION])
def test_packed_model_still_answers_plain_calls_and_saves_nothing_of_it(pair_of_models, attention, tmp_path) -> None:
    model, plain = copy.deepcopy(pair_of_models)
    model.set_attn_implementation(attention)
    ids = torch.tensor([[5, 6, 7, 8], [9, 8, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    ours, theirs = (m(input_ids=ids, attention_mask=mask).logits[mask > 0] for m in (model, plain))
    torch.testing.assert_close(ours, theirs)
    model.save_pretrained(tmp_path)
    assert "mixdpo" not in (tmp_path / "config.json").read_text()


@pytest.mark.parametrize("window", [None, 5])
def test_bfloat16_errs_like_the_plain_forward(window) -> None:
    """Against float32, the packed row in bfloat16 is about as far away as transformers' own forward in bfloat16."""
    plain = tiny("Mistral", sliding_window=window, initializer_range=0.05)
    model = copy.deepcopy(plain)
    assert prepare_packing(model, on_gpu=False) is None
    groups = groups_of(*[(10 + i, [40, 30 + i]) for i in range(12)])
    with torch.no_grad():
        exact = expected_logprobs(plain, groups)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            packed = completion_logprobs(model, pack_rows(groups))
            padded = completion_logprobs(plain, pad_rows(groups, 0))
    assert (packed - exact).square().mean() < 2 * (padded - exact).square().mean()


# ---- what trains ----


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("targets", [None, ["q_proj", "v_proj"], ["down_proj", "lm_head"]])
def test_adapters_and_gradient_checkpointing(checkpointing, targets) -> None:
    plain = tiny("Llama")
    if targets is not None:
        plain = get_peft_model(plain, LoraConfig(r=4, target_modules=targets, init_lora_weights=False))
    model = copy.deepcopy(plain)
    assert prepare_packing(model, on_gpu=False) is None
    if checkpointing:
        model.train()
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    assert_equal(model, plain, MIXED)


@pytest.fixture(params=[False, True], ids=["cpu", "gpu"])
def tiles_as_on_gpu(request, monkeypatch) -> bool:
    """Whether tiles are computed as on a GPU, by functions that it would compile."""
    if request.param:
        monkeypatch.setattr("mixdpo.models.engine.lm_head.compiles_tiles", lambda device: True)
        monkeypatch.setattr("mixdpo.models.engine.lm_head.compiled", lambda function, *arguments: function(*arguments))
        monkeypatch.setattr(tiles_module, "_WIDTH", 256)
    return request.param


@pytest.mark.usefixtures("tiles_as_on_gpu")
@pytest.mark.parametrize("kept_tiles", [0, 1, 9])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("vocabulary", [7, 256, 1000])
def test_head_equals_log_softmax(bias, vocabulary, kept_tiles, monkeypatch) -> None:
    monkeypatch.setattr("mixdpo.models.engine.lm_head._TILE_ELEMENTS", {"cpu": 1, "other": 1})
    monkeypatch.setattr("mixdpo.models.engine.lm_head._KEPT_BYTES", {"cpu": kept_tiles * 21 * 256 * 4})
    monkeypatch.setattr("mixdpo.models.engine.lm_head._TOKENS_PER_CALL", 8)
    torch.manual_seed(0)
    head = nn.Linear(16, vocabulary, bias=bias)
    hidden = torch.randn(21, 16, requires_grad=True)
    target = torch.randint(0, vocabulary, (21,))
    expected = head(hidden).log_softmax(-1).gather(1, target[:, None])[:, 0]
    ours = target_scores(head, head.forward, hidden, target)[:, 0]
    torch.testing.assert_close(ours, expected)
    weight = torch.randn(21)
    inputs = (hidden, *head.parameters())
    for a, b in zip(
        torch.autograd.grad((ours * weight).sum(), inputs),
        torch.autograd.grad((expected * weight).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_tiles_are_compiled_once_for_each_width(monkeypatch) -> None:
    counting = Counting("exp")
    functions = (tiles_module.fold_tile, tiles_module.softmax_less_onehot)
    compiled = {function: torch.compile(function, dynamic=True, backend=counting) for function in functions}
    monkeypatch.setattr(tiles_module, "_compiled", compiled.__getitem__)
    for tokens, width in [(21, 64), (30, 64), (45, 64), (45, 32)]:
        logits, column = torch.randn(tokens, width), torch.randint(width, (tokens, 1))
        nothing = torch.full((tokens, 1), -torch.inf), torch.zeros(tokens, 1)
        largest, total, _ = tiles_module.compiled(functions[0], logits, *nothing, None)
        torch.testing.assert_close(largest + total.log(), logits.logsumexp(1, keepdim=True))
        softmax = logits.softmax(1)
        less_one = softmax.gather(1, column) - 1
        found = tiles_module.compiled(functions[1], logits, largest + total.log(), column, less_one)
        torch.testing.assert_close(found, softmax - F.one_hot(column[:, 0], width))
    assert counting.graphs == 4
    torch._dynamo.reset()


@pytest.mark.parametrize(("tokens", "vocabulary"), [(1, 7), (4_000, 128_256), (25_000, 151_936), (10**6, 50_257)])
def test_compiled_tiles_are_few_wide_and_bounded(tokens, vocabulary) -> None:
    width = tiles_module.compiled_width(tokens, vocabulary)
    assert width % 32 == 0
    assert vocabulary // width <= max(8 * vocabulary * tokens / 2**28, vocabulary / 2**13)
    assert tokens * (width - 32) <= 2**28


@pytest.mark.usefixtures("tiles_as_on_gpu")
@pytest.mark.parametrize("alignment", [False, True])
def test_sure_tokens_in_bfloat16_err_no_more_than_by_plain_logits(alignment: bool) -> None:
    """Most tokens of an answer are sure (p near 1); rounding must not add up over them, in value or gradient."""
    torch.manual_seed(0)
    head = nn.Linear(128, 4096, bias=False)
    target = torch.randint(0, 4096, (300,))
    towards = F.normalize(head.weight.detach()[target], dim=1) * torch.linspace(0, 40, 300)[:, None]
    hidden = (torch.randn(300, 128) + towards).bfloat16().float()
    with torch.no_grad():
        head.weight.copy_(head.weight.bfloat16())
    exact_hidden = hidden.double().requires_grad_()
    log_softmax = (exact_hidden @ head.weight.detach().double().t()).log_softmax(1)
    exact = log_softmax.gather(1, target[:, None])
    exact.sum().backward()
    if alignment:
        exact = torch.cat([exact, exact - (2 * log_softmax).logsumexp(1, keepdim=True)], dim=1)
    exact = exact.detach()
    sure = exact[:, 0].exp() > 0.9
    assert 50 < sure.sum() < 250

    def errors(score: Callable[[Tensor], Tensor]) -> tuple[Tensor, float]:
        given = hidden.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            scores = score(given)
        scores[:, 0].sum().backward()
        values = (scores.double() - exact)[sure].detach()
        return values, float((given.grad - exact_hidden.grad)[sure].norm() / exact_hidden.grad[sure].norm())

    ours, gradient = errors(lambda given: target_scores(head, head.forward, given, target, alignment))
    plain, plain_gradient = errors(lambda given: scores_of_logits(head(given), target, alignment))
    assert (ours.square().mean(0).sqrt() <= plain.square().mean(0).sqrt()).all()
    assert ours.sum(0).abs().max() < 0.02
    assert gradient <= 1.05 * plain_gradient


@pytest.mark.parametrize("kept_bytes", [0, 40_000, 2**20])
def test_logits_are_kept_up_to_the_bound_and_for_training_only(kept_bytes, monkeypatch) -> None:
    monkeypatch.setattr("mixdpo.models.engine.lm_head._TILE_ELEMENTS", {"cpu": 1, "other": 1})
    monkeypatch.setattr("mixdpo.models.engine.lm_head._KEPT_BYTES", {"cpu": kept_bytes})
    head = nn.Linear(16, 1000, bias=False)
    saved: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        if tensor.shape in [(21, 256), (21, 232)]:
            saved.append(tensor.nbytes)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        arguments = (head, head.forward, torch.randn(21, 16), torch.randint(0, 1000, (21,)))
        target_scores(*arguments)
        assert sum(saved) == {0: 0, 40_000: 21 * 256 * 4, 2**20: 21 * 1000 * 4}[kept_bytes]
        saved.clear()
        with torch.no_grad():
            target_scores(*arguments)
        assert not saved


@pytest.mark.parametrize("family", ["Llama", "Qwen3", "Gemma", "Phi"])
def test_norms_give_what_autocast_gives(family) -> None:
    """Values are those of transformers' norm and the cast behind it; gradients are those of finite differences."""
    plain = tiny(family)
    model = copy.deepcopy(plain)
    use_lean_norms(model)
    replaced = [name for name, module in model.named_modules() if isinstance(vars(module).get("forward"), LeanNorm)]
    assert len(replaced) == {"Llama": 5, "Qwen3": 9, "Gemma": 0, "Phi": 0}[family]
    generator = torch.Generator().manual_seed(0)
    for name in replaced:
        ours, theirs = model.get_submodule(name), plain.get_submodule(name)
        theirs.weight.data = ours.weight.data = torch.randn(len(ours.weight), generator=generator)
        hidden = torch.randn(2, 9, len(ours.weight), generator=generator)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            torch.testing.assert_close(ours(hidden), theirs(hidden).to(torch.bfloat16), rtol=0.008, atol=0)
            torch.testing.assert_close(
                ours.forward._fused(hidden), theirs(hidden).to(torch.bfloat16), rtol=0.008, atol=0
            )
        assert ours(hidden.half()).dtype == theirs(hidden.half()).dtype
        x = hidden.double().requires_grad_()
        assert torch.autograd.gradcheck(
            lambda x, w: _RMSNorm.apply(x, w, 1e-6, torch.float64), (x, ours.weight.detach().double().requires_grad_())
        )
