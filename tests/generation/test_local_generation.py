from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from mixdpo.common.errors import InputError
from mixdpo.generation.chat_model import Completion
from mixdpo.generation.generation_settings import SamplingSettings
from mixdpo.generation.local_generation import answer_rendered, generate_answers, render_prompts, stop_token_ids
from tiny import tiny_llama

PROMPTS = [
    [{"role": "user", "content": "Tell me about cats."}],
    [{"role": "user", "content": "How?"}],
    [
        {"role": "system", "content": "You are helpful."},
        {"role": "user", "content": "Boil water, add the leaves. Ok?"},
    ],
    [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Sure, here is tea!"},
        {"role": "user", "content": "1 2 3"},
    ],
    [{"role": "user", "content": "dogs today"}],
]
GREEDY = SamplingSettings(max_new_tokens=12, batch_size=3)
SAMPLED = SamplingSettings(max_new_tokens=12, batch_size=3, temperature=1.0, seed=1)


@pytest.fixture
def model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    return tiny_llama(vocab_size=len(tokenizer))


def greedy_ids(model: PreTrainedModel, ids: list[int], steps: int, stops: list[int]) -> list[int]:
    """The slow reference: the whole sequence again for every token, alone and without padding."""
    written: list[int] = []
    while len(written) < steps and not (written and written[-1] in stops):
        logits = model(torch.tensor([ids + written])).logits[0, -1]
        written.append(int(logits.argmax()))
    return written


def test_greedy_equals_one_by_one(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    answers = generate_answers(model, tokenizer, PROMPTS, settings=GREEDY)
    stops = stop_token_ids(model, tokenizer)
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        ids = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
        written = greedy_ids(model, ids, GREEDY.max_new_tokens, stops)
        finished = written[-1] in stops
        body = written[:-1] if finished else written
        assert answer == Completion(
            text=tokenizer.decode(body, skip_special_tokens=True),
            finished=finished,
            tokens_in=len(ids),
            tokens_out=len(body),
        )


def test_the_entropy_of_an_answer_is_the_mean_over_what_its_tokens_were_chosen_from(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    """With the token that ended it, whatever rows left the batch before; by the model's own logits in float64."""
    rendered = render_prompts(tokenizer, PROMPTS)
    stops = stop_token_ids(model, tokenizer)
    for ids, answer in zip(rendered, answer_rendered(model, tokenizer, rendered, GREEDY, entropy=True), strict=True):
        written = greedy_ids(model, ids, GREEDY.max_new_tokens, stops)
        probabilities = model(torch.tensor([ids + written])).logits[0, len(ids) - 1 : -1].double().softmax(-1)
        assert answer.entropy == pytest.approx(float(torch.special.entr(probabilities).sum(-1).mean()), abs=1e-5)
    assert answer_rendered(model, tokenizer, rendered[:1], GREEDY)[0].entropy is None


def windowed(vocab_size: int) -> PreTrainedModel:
    """Each token sees six others."""
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=vocab_size, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, sliding_window=6, initializer_range=0.2,
    )  # fmt: skip
    return MistralForCausalLM(config).eval()


def recurrent(vocab_size: int) -> PreTrainedModel:
    """No cache of keys and values at all."""
    torch.manual_seed(0)
    config = MambaConfig(
        vocab_size=vocab_size, hidden_size=32, num_hidden_layers=2, state_size=8, initializer_range=0.5
    )
    return MambaForCausalLM(config).eval()


@pytest.mark.parametrize("build", [tiny_llama, windowed, recurrent])
def test_rows_that_have_ended_leave_the_batch(build: Callable[..., Any], tokenizer: PreTrainedTokenizerFast) -> None:
    model = build(vocab_size=len(tokenizer))
    rendered = render_prompts(tokenizer, PROMPTS)
    unbounded = [greedy_ids(model, ids, 24, []) for ids in rendered]
    # Stop tokens by which the rows end early, late or not at all.
    stops = [unbounded[0][3], unbounded[1][15], 2]
    model.generation_config.eos_token_id = stops
    stops = stop_token_ids(model, tokenizer)
    expected = [greedy_ids(model, ids, 24, stops) for ids in rendered]
    lengths = [len(ids) for ids in expected]
    assert min(lengths) <= 4 < 10 < max(lengths)

    computed: list[int] = []
    model.register_forward_hook(lambda _module, _inputs, output: computed.append(len(output.logits)))
    answers = generate_answers(
        model, tokenizer, PROMPTS, settings=SamplingSettings(max_new_tokens=24, batch_size=len(PROMPTS))
    )
    for answer, ids, written in zip(answers, rendered, expected, strict=True):
        body = written[:-1] if written[-1] in stops else written
        assert answer == Completion(
            text=tokenizer.decode(body, skip_special_tokens=True),
            finished=written[-1] in stops,
            tokens_in=len(ids),
            tokens_out=len(body),
        )
    assert len(computed) == max(lengths)
    assert sum(computed) < len(PROMPTS) * max(lengths)
    assert computed[-1] == lengths.count(max(lengths))


SAMPLES = 3


@pytest.mark.parametrize("build", [tiny_llama, windowed, recurrent])
def test_samples_are_as_of_transformers_num_return_sequences(
    build: Callable[..., Any], tokenizer: PreTrainedTokenizerFast
) -> None:
    """The distribution of each sample's first token, and where it leads when it is followed (temperature near 0)."""
    model = build(vocab_size=len(tokenizer))
    rendered = render_prompts(tokenizer, PROMPTS)
    settings = SamplingSettings(max_new_tokens=12, temperature=1e-4, batch_size=len(PROMPTS) * SAMPLES)
    repeated = [ids for ids in rendered for _ in range(SAMPLES)]
    answers = answer_rendered(model, tokenizer, repeated, settings, top_logprobs=5)
    stops = stop_token_ids(model, tokenizer)
    for ids, *samples in zip(rendered, *(answers[k::SAMPLES] for k in range(SAMPLES)), strict=True):
        own = model.generate(
            torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), max_new_tokens=12,
            num_return_sequences=SAMPLES, do_sample=True, temperature=1e-4, eos_token_id=stops, pad_token_id=0,
            output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
        for sample, sequence, logits in zip(samples, own.sequences, own.logits[0], strict=True):
            text = tokenizer.decode([id for id in sequence[len(ids) :].tolist() if id], skip_special_tokens=True)
            assert sample.text == text
            plain = torch.log_softmax(logits, dim=-1).topk(5)
            assert [token for token, _ in sample.first_token] == [tokenizer.decode([id]) for id in plain.indices]
            assert [value for _, value in sample.first_token] == pytest.approx(plain.values.tolist(), abs=1e-4)


def test_the_prompt_of_samples_is_computed_once(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    computed: list[int] = []
    model.model.register_forward_hook(lambda _module, _inputs, output: computed.append(output[0][..., 0].numel()))
    rendered = render_prompts(tokenizer, PROMPTS)
    settings = SamplingSettings(max_new_tokens=1, temperature=1.0, batch_size=len(PROMPTS) * SAMPLES)
    answer_rendered(model, tokenizer, [ids for ids in rendered for _ in range(SAMPLES)], settings)
    longest = max(map(len, rendered))
    assert computed == [len(PROMPTS) * (longest - 1), len(PROMPTS) * SAMPLES]
    computed.clear()
    answer_rendered(model, tokenizer, rendered, settings)
    assert computed == [len(PROMPTS) * longest]


def test_min_p_leaves_unlikely_tokens_out(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    rendered = render_prompts(tokenizer, PROMPTS[:1]) * 40
    settings = SamplingSettings(max_new_tokens=1, temperature=2.0, batch_size=40)

    def first_tokens(min_p: float | None) -> list[str]:
        return [one.text for one in answer_rendered(model, tokenizer, rendered, settings, min_p=min_p)]

    scaled = model(torch.tensor(rendered[:1])).logits[0, -1] / 2.0
    kept = (scaled.softmax(-1) >= 0.5 * scaled.softmax(-1).max()).nonzero().squeeze(1).tolist()
    texts = {tokenizer.decode([id], skip_special_tokens=True) for id in kept}
    everything = first_tokens(None)
    assert set(first_tokens(0.5)) <= texts
    assert not set(everything) <= texts
    model.generation_config.min_p = 0.9  # the model's own, which is not used
    assert first_tokens(None) == everything


def test_batch_size_does_not_change_greedy_answers(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    answers = [
        generate_answers(
            model, tokenizer, PROMPTS, settings=SamplingSettings(max_new_tokens=12, batch_size=batch_size)
        )
        for batch_size in (1, 2, 5)
    ]
    assert answers[0] == answers[1] == answers[2]


def test_answers_are_in_the_order_of_the_prompts(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    forward = generate_answers(model, tokenizer, PROMPTS, settings=GREEDY)
    backward = generate_answers(model, tokenizer, PROMPTS[::-1], settings=GREEDY)
    assert forward == backward[::-1]
    assert len({answer.text for answer in forward}) > 1


def test_cut_answer_is_not_finished(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    answer = generate_answers(model, tokenizer, PROMPTS[:1], settings=GREEDY)[0]
    assert (answer.tokens_out, answer.finished) == (12, False)


@pytest.mark.parametrize("as_list", [False, True])
def test_stops_at_the_generation_configs_tokens(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, as_list: bool
) -> None:
    ids = render_prompts(tokenizer, PROMPTS[:1])[0]
    written = greedy_ids(model, ids, 12, [])
    stop = written[4]
    model.generation_config.eos_token_id = [2, stop] if as_list else stop
    answer = generate_answers(model, tokenizer, PROMPTS[:1], settings=GREEDY)[0]
    first = written.index(stop)
    text = tokenizer.decode(written[:first], skip_special_tokens=True)
    assert (answer.text, answer.tokens_out, answer.finished) == (text, first, True)


def test_stops_at_the_tokenizers_own_end(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    ids = render_prompts(tokenizer, PROMPTS[:1])[0]
    stop = greedy_ids(model, ids, 12, [])[4]
    other = copy.deepcopy(tokenizer)
    other.eos_token = other.convert_ids_to_tokens(stop)
    assert generate_answers(model, other, PROMPTS[:1], settings=GREEDY)[0].finished


def test_stop_tokens_are_of_three_sources(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    closing = tokenizer.convert_tokens_to_ids("<|im_end|>")
    other = copy.deepcopy(tokenizer)
    other.eos_token = "<|pad|>"  # the template still closes a turn with <|im_end|>
    model.generation_config.eos_token_id = [7]
    assert stop_token_ids(model, other) == sorted({other.pad_token_id, closing, 7})
    other.chat_template = (
        "{% for message in messages %}{{ message['role'] + ': ' + message['content'] }}\n{% endfor %}"
    )
    assert stop_token_ids(model, other) == sorted({other.pad_token_id, 7})
    for template in (None, "{{ 1 // 0 }}", "{% for %}"):
        other.chat_template = template
        assert stop_token_ids(model, other) == sorted({other.pad_token_id, 7})
    other.eos_token = None
    model.generation_config.eos_token_id = None
    assert stop_token_ids(model, other) == []


def test_without_stop_and_pad_tokens(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    other = copy.deepcopy(tokenizer)
    other.eos_token = other.pad_token = None
    other.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    model.generation_config.eos_token_id = None
    answers = generate_answers(model, other, PROMPTS, settings=GREEDY)
    assert [(answer.tokens_out, answer.finished) for answer in answers] == [(12, False)] * len(PROMPTS)


def test_no_second_bos(tokenizer: PreTrainedTokenizerFast) -> None:
    other = copy.deepcopy(tokenizer)
    bos = other.convert_tokens_to_ids("<|im_start|>")
    other.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", bos)]
    )
    other.chat_template = "{{ bos_token }}{% for message in messages %}{{ message['content'] }}{% endfor %}"
    assert other("Hi").input_ids.count(bos) == 1
    assert [ids.count(bos) for ids in render_prompts(other, PROMPTS)] == [1] * len(PROMPTS)


def test_sampling_follows_the_seed(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    first = generate_answers(model, tokenizer, PROMPTS, settings=SAMPLED)
    torch.rand(3)
    assert generate_answers(model, tokenizer, PROMPTS, settings=SAMPLED) == first
    other = SamplingSettings(max_new_tokens=12, batch_size=3, temperature=1.0, seed=2)
    assert generate_answers(model, tokenizer, PROMPTS, settings=other) != first


def test_repeated_prompts_get_different_samples(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    answers = generate_answers(model, tokenizer, PROMPTS[:1] * 6, settings=SAMPLED)
    assert len(set(answers)) > 3


def test_narrow_sampling_is_greedy(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    greedy = generate_answers(model, tokenizer, PROMPTS, settings=GREEDY)
    for narrow in ({"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-4}):
        settings = SamplingSettings(**{"max_new_tokens": 12, "batch_size": 3, "temperature": 1.0, **narrow})  # type: ignore[arg-type]
        assert generate_answers(model, tokenizer, PROMPTS, settings=settings) == greedy


def test_leaves_randomness_and_mode_alone(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    state = torch.get_rng_state()
    model.train()
    generate_answers(model, tokenizer, PROMPTS, settings=SAMPLED)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    model.eval()
    generate_answers(model, tokenizer, PROMPTS, settings=GREEDY)
    assert not model.training


@pytest.mark.parametrize("settings", [GREEDY, SAMPLED])
def test_the_models_own_sampling_settings_are_not_used(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, settings: SamplingSettings
) -> None:
    plain = generate_answers(model, tokenizer, PROMPTS, settings=settings)
    own: dict[str, Any] = {"do_sample": True, "temperature": 5.0, "top_k": 2, "top_p": 0.1, "repetition_penalty": 9.0}
    model.generation_config.update(**own)
    assert generate_answers(model, tokenizer, PROMPTS, settings=settings) == plain


def test_progress(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    seen: list[tuple[int, int]] = []
    generate_answers(
        model, tokenizer, PROMPTS, settings=GREEDY, progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(3, 5), (5, 5)]


def test_no_prompts(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    assert generate_answers(model, tokenizer, []) == []


def test_no_chat_template(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    other = copy.deepcopy(tokenizer)
    other.chat_template = None
    with pytest.raises(InputError, match="no chat template"):
        generate_answers(model, other, PROMPTS)


def test_template_that_refuses_a_prompt(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    other = copy.deepcopy(tokenizer)
    other.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system message') }}{% endif %}x"
    )
    with pytest.raises(InputError, match="prompt 3: no system message"):
        generate_answers(model, other, PROMPTS)


def test_prompt_too_long(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    long = [{"role": "user", "content": "cats " * 300}]
    with pytest.raises(InputError, match=r"prompt 2 has \d+ tokens.*256 positions"):
        generate_answers(model, tokenizer, [PROMPTS[0], long], settings=GREEDY)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_new_tokens": 0},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_k": -1},
        {"batch_size": 0},
    ],
)
def test_wrong_settings(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        SamplingSettings(**wrong)


@pytest.mark.slow
def test_smollm2_answers(smollm2: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(smollm2)
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    questions = ["What is the capital of France?", "Write one sentence about what bees make, and why people like it."]
    prompts = [[{"role": "user", "content": question}] for question in questions]
    assert stop_token_ids(model, tokenizer) == [tokenizer.convert_tokens_to_ids("<|im_end|>")]
    settings = SamplingSettings(max_new_tokens=60)
    together = generate_answers(model, tokenizer, prompts, settings=settings)
    assert "Paris" in together[0].text
    assert "honey" in together[1].text
    assert together[0].finished
    assert generate_answers(model, tokenizer, prompts[:1], settings=settings)[0] == together[0]


def test_first_tokens_have_the_models_own_log_probabilities(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    settings = SamplingSettings(max_new_tokens=1, temperature=1.0, batch_size=3)
    answers = generate_answers(model, tokenizer, PROMPTS, settings=settings, top_logprobs=5)
    for ids, answer in zip(render_prompts(tokenizer, PROMPTS), answers, strict=True):
        plain = torch.log_softmax(model(torch.tensor([ids])).logits[0, -1], dim=-1).topk(5)
        assert [token for token, _ in answer.first_token] == [tokenizer.decode([id]) for id in plain.indices]
        assert [value for _, value in answer.first_token] == pytest.approx(plain.values.tolist(), abs=1e-4)
