"""Which layers a kernel takes over, and that they give what they gave; the kernels are PyTorch's operations here."""

from __future__ import annotations

import copy
import sys

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn import functional as F
from transformers import AutoModelForCausalLM
from transformers.models.llama import modeling_llama

from mixdpo.models.engine import (
    completion_logprobs,
    pack_rows,
    pad_rows,
    prepare_packing,
    use_layer_kernels,
    use_plain_rotary,
)
from mixdpo.models.engine.layer_kernels import LayerKernels, Rotary
from prompt_groups import expected_logprobs, gradients, groups_of, tiny

CPU = torch.device("cpu")
GROUPS = groups_of((5, [7, 3]), (1, [1]), (9, [2, 12]))


class Calls:
    """Kernels made of PyTorch's operations, which count how often they are asked."""

    def __init__(self) -> None:
        self.gated = self.turned = self.normed = 0
        self.kernels = LayerKernels([self._of(F.silu), self._of(self._gelu)], self._rotary, self._norm)

    @staticmethod
    def _gelu(x):
        return F.gelu(x, approximate="tanh")

    def _of(self, activation):
        def product(gate, up):
            self.gated += 1
            return activation(gate) * up

        return product

    def _rotary(self, q, k, cos, sin):
        self.turned += 1

        def turned(x):
            width = cos.shape[-1]
            part, rest = x[..., :width], x[..., width:]
            first, second = part.chunk(2, dim=-1)
            part = part * cos.unsqueeze(1) + torch.cat([-second, first], dim=-1) * sin.unsqueeze(1)
            return torch.cat([part, rest], dim=-1)

        return turned(q), turned(k)

    def _norm(self, x, weight, epsilon):
        self.normed += 1
        return (F.rms_norm(x.float(), weight.shape, 1 + weight.float(), epsilon)).to(x.dtype)


FAMILIES = {  # by a layer: how many gated layers, turns and norms of Gemma's kind a forward pass computes by kernels
    "Llama": (1, 1, 0),
    "Qwen3": (1, 1, 0),
    "Mistral": (1, 1, 0),
    "Phi3": (1, 1, 0),
    "Gemma": (1, 1, 2),
    "Gemma2": (1, 1, 4),
    "Gemma3Text": (1, 1, 6),
    "Olmo2": (1, 1, 0),
    "Granite": (1, 1, 0),
    "SmolLM3": (1, 1, 0),
    "Mixtral": (0, 1, 0),  # experts stand in one tensor
    "Phi": (0, 1, 0),  # no gate
    "GPTNeoX": (0, 1, 0),
    "Glm4": (1, 0, 0),  # pairs of neighbours are turned
    "Cohere": (1, 0, 0),
    "GPT2": (0, 0, 0),
}
CHANGES = {
    "GPT2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512},
    "SmolLM3": {"no_rope_layers": [1, 1]},
}


@pytest.fixture(autouse=True)
def _own_rotary_functions():
    yield
    for name, module in list(sys.modules.items()):
        if name.startswith("transformers.models.") and isinstance(
            found := vars(module).get("apply_rotary_pos_emb"), Rotary
        ):
            module.apply_rotary_pos_emb = found.plain


def assert_gives_the_same(model, values, expected, theirs) -> None:
    torch.testing.assert_close(values, expected, atol=1e-4, rtol=1e-5)
    largest = max(float(g.abs().max()) for g in theirs)
    for a, b in zip(gradients(model, values), theirs, strict=True):
        torch.testing.assert_close(a / largest, b / largest, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_of_a_family_give_what_they_gave(family) -> None:
    model = tiny(family, **CHANGES.get(family, {}))
    expected = expected_logprobs(model, GROUPS)
    theirs = gradients(model, expected)
    calls = Calls()
    replaced = use_layer_kernels(model, calls.kernels, CPU, torch.bfloat16)
    calls.gated = calls.turned = calls.normed = 0
    values = completion_logprobs(model, pad_rows(GROUPS, 0))
    gated, turned, normed = (2 * calls for calls in FAMILIES[family])
    normed += normed > 0  # the last one stands in no layer
    assert (calls.gated, calls.turned, calls.normed) == (gated, turned, normed), str(replaced)
    assert_gives_the_same(model, values, expected, theirs)


@pytest.mark.parametrize("family", ["Llama", "Gemma"])
def test_packed_rows_adapters_and_gradient_checkpointing(family) -> None:
    model = get_peft_model(tiny(family), LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    expected = expected_logprobs(model, GROUPS)
    theirs = gradients(model, expected)
    assert prepare_packing(model, on_gpu=False) is None
    calls = Calls()
    use_layer_kernels(model, calls.kernels, CPU, torch.bfloat16)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    calls.gated = 0
    assert_gives_the_same(model, completion_logprobs(model, pack_rows(GROUPS)), expected, theirs)
    assert calls.gated == 4, "once more for the gradients"


def test_a_model_is_saved_as_it_is_and_a_copy_is_its_own(tmp_path) -> None:
    model = tiny("Gemma", tie_word_embeddings=True)
    calls = Calls()
    names = [type(module) for module in model.modules()]
    use_layer_kernels(model, calls.kernels, CPU, torch.bfloat16)
    assert [type(module) for module in model.modules()] == names
    assert type(model).forward is vars(type(model))["forward"]
    assert "forward" not in vars(model), "the head and the loss are the model's own"
    with torch.no_grad():
        values = completion_logprobs(model, pad_rows(GROUPS, 0))
        reference = copy.deepcopy(model)
        for weights in model.parameters():
            weights.mul_(0.5)
        torch.testing.assert_close(completion_logprobs(reference, pad_rows(GROUPS, 0)), values)
        reference.save_pretrained(tmp_path)
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
        assert type(loaded) is type(model)
        torch.testing.assert_close(completion_logprobs(loaded, pad_rows(GROUPS, 0)), values)


def test_kernels_that_do_not_run_or_give_something_else_are_left_out() -> None:
    def fails(*_):
        raise RuntimeError("out of resource: shared memory")

    def wrong(gate, up):
        return 1.01 * F.silu(gate) * up

    model = tiny("Llama")
    plain = modeling_llama.apply_rotary_pos_emb
    replaced = use_layer_kernels(model, LayerKernels([fails, wrong], fails, fails), CPU, torch.bfloat16)
    assert replaced.kept == {"LlamaMLP": 2, "apply_rotary_pos_emb": 1}
    assert replaced.layers == {"LlamaRMSNorm": 5}, "which PyTorch's own kernel computes"
    assert modeling_llama.apply_rotary_pos_emb is plain


def test_rotary_functions_are_given_back() -> None:
    plain = modeling_llama.apply_rotary_pos_emb
    model, kernels = tiny("Llama"), Calls().kernels
    for _ in range(2):
        use_layer_kernels(model, kernels, CPU, torch.bfloat16)
        assert modeling_llama.apply_rotary_pos_emb.plain is plain
    use_plain_rotary(model)
    assert modeling_llama.apply_rotary_pos_emb is plain
