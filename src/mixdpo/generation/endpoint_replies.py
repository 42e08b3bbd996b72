"""What an OpenAI-compatible endpoint replies: answers, and the reasoning that it keeps apart from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from mixdpo.common.table_files import well_formed
from mixdpo.generation.chat_model import Completion

MALFORMED: Final = (AttributeError, IndexError, KeyError, TypeError, ValueError)
"""What reading a malformed reply raises."""
_REASONING: Final = ("reasoning_content", "reasoning", "thinking")
"""Fields beside a message's content: of vLLM, SGLang and DeepSeek; of OpenRouter and newer vLLM; of Ollama."""


def read_replies(response: Any, wanted: int) -> list[Completion | None]:
    """Return the answers in a reply of the client, in their order; None for one that is malformed.

    Args:
        response: to a call, parsed.
        wanted: answers that were asked for; the reply may hold fewer, and what it holds beyond is left out.

    Raises:
        AttributeError, IndexError, KeyError, TypeError, ValueError: the reply is malformed, or all answers in it; the
            message says how, in the endpoint's own words where it sent an error under status 200.
    """
    choices = _choices(response)[:wanted]
    read: list[Completion | None] = []
    fault: Exception = ValueError("it has no choices")
    for choice in choices:
        try:
            read.append(well_formed_completion(_read(choice, response, alone=len(choices) == 1)))
        except MALFORMED as error:
            read.append(None)
            fault = error
    if not any(read):
        raise fault
    return read


def _choices(response: Any) -> list[Any]:
    error = getattr(response, "error", None)
    if error:
        said = error.get("message") if isinstance(error, Mapping) else error
        raise ValueError(f"an error in place of an answer ({said or error})")
    if isinstance(response, str):
        raise ValueError(f"no JSON, but {response!r:.60}")
    choices = getattr(response, "choices", None)
    if not isinstance(choices, list):
        raise ValueError("it has no choices")
    return choices


def _read(choice: Any, response: Any, *, alone: bool) -> Completion:
    logprobs = choice.logprobs.content if choice.logprobs is not None else None
    first = logprobs[0].top_logprobs if logprobs else []
    usage = response.usage
    written = usage if alone else None  # else it counts all answers together
    details = getattr(written, "completion_tokens_details", None)
    if choice.message is None:
        raise ValueError("a choice without a message")
    text, reasoning = _parts(choice.message)
    return Completion(
        text=text,
        reasoning=reasoning,
        finished=choice.finish_reason == "stop",
        first_token=tuple((top.token, float(top.logprob)) for top in first) if reasoning is None else (),
        model=response.model or "",
        tokens_in=usage.prompt_tokens if usage else 0,
        tokens_out=written.completion_tokens if written else 0,
        reasoning_tokens=getattr(details, "reasoning_tokens", None) or 0,
        failure=None if text.strip() or first else _no_content(choice, reasoning),
    )


def _parts(message: Any) -> tuple[str, str | None]:
    """Return the answer, and the reasoning that some endpoints keep apart: beside it, or as a part of it (Mistral)."""
    beside = [getattr(message, name, None) for name in _REASONING]
    reasoning = next((text for text in beside if isinstance(text, str) and text.strip()), None)
    content = message.content
    if content is None or isinstance(content, str):
        return content or "", reasoning
    if not isinstance(content, list):
        raise ValueError(f"content that is neither text nor a list ({content!r:.60})")
    texts = {
        kind: "".join(_part_text(part[kind]) for part in content if kind in part) for kind in ("text", "thinking")
    }
    return texts["text"], reasoning or texts["thinking"] or None


def _part_text(value: Any) -> str:
    return value if isinstance(value, str) else "".join(str(part.get("text", "")) for part in value)


def _no_content(choice: Any, reasoning: str | None) -> str | None:
    """Return why a reply without content is no answer; None where its reasoning took all there was to write."""
    if choice.finish_reason == "content_filter":
        return "no content: a filter of the provider withheld it"
    if getattr(choice.message, "refusal", None):
        return "no content: the model refused"
    if choice.finish_reason == "length" or reasoning is not None:
        return None
    return f"no content: the reply is empty (finish_reason {choice.finish_reason})"


def well_formed_completion(completion: Completion) -> Completion:
    """Return a completion whose texts can be written as UTF-8."""
    first_token = tuple((well_formed(token), chance) for token, chance in completion.first_token)
    reasoning = None if completion.reasoning is None else well_formed(completion.reasoning)
    return replace(completion, text=well_formed(completion.text), reasoning=reasoning, first_token=first_token)
