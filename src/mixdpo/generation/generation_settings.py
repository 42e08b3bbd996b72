"""How answers are generated: settings of a prompt set, of a model on this machine, and of an endpoint."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from mixdpo.common.errors import InputError
from mixdpo.common.settings import check_choice, check_ranges
from mixdpo.data.data_settings import TEMPLATE_KWARGS_HELP, check_template_kwargs

TokenLimit = Literal["max_tokens", "max_completion_tokens"]
TEMPERATURE_OF_SAMPLES: Final = 0.8
"""At which temperature several answers to a prompt are sampled, where none is given."""
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, kw_only=True)
class GenerationSettings:
    """How a prompt set is answered, by any chat model."""

    max_new_tokens: int | None = field(
        default=None, metadata={"help": "longest answer; default: 2,048 tokens, for MT-Bench 1,024", "at_least": 1}
    )
    temperature: float | None = field(
        default=None,
        metadata={
            "help": "default: 0 (greedy), for several samples 0.8, for MT-Bench its own by category",
            "at_least": 0,
            "below": 100,
        },
    )
    top_p: float | None = field(
        default=None, metadata={"help": "share of probability that is sampled from", "above": 0, "at_most": 1}
    )
    min_p: float | None = field(
        default=None,
        metadata={
            "help": "leave out tokens less likely than this part of the likeliest one; an endpoint must know it",
            "above": 0,
            "at_most": 1,
        },
    )
    samples: int = field(default=1, metadata={"help": "answers to each prompt", "at_least": 1})
    seed: int = field(default=0, metadata={"help": "of the sampling; sample k, from 0, has the seed + k"})

    def __post_init__(self) -> None:
        check_ranges(self, "generation setting ")
        if self.samples > 1 and self.temperature == 0:
            raise InputError(
                f"generation setting samples: {self.samples} answers at temperature 0 are all the same",
                hint=f"set a temperature above 0, such as {TEMPERATURE_OF_SAMPLES}",
            )


@dataclass(frozen=True, kw_only=True)
class SamplingSettings:
    """How a model on this machine samples. Of its own generation settings only the stop tokens are used."""

    max_new_tokens: int = field(
        default=512,
        metadata={"help": "longest answer, in tokens; a longer one is cut and counts as not finished", "at_least": 1},
    )
    temperature: float = field(
        default=0.0,
        metadata={
            "help": "0 takes the likeliest token each time; above it, tokens are sampled",
            "at_least": 0,
            "below": float("inf"),
        },
    )
    top_p: float = field(
        default=1.0,
        metadata={
            "help": "sample among the likeliest tokens that together have this probability",
            "above": 0,
            "at_most": 1,
        },
    )
    top_k: int = field(
        default=0, metadata={"help": "sample among this many likeliest tokens; 0 sets no such bound", "at_least": 0}
    )
    batch_size: int = field(
        default=32, metadata={"help": "answers written at once; sampled answers depend on it", "at_least": 1}
    )
    seed: int = field(default=0, metadata={"help": "seed of the sampling"})

    def __post_init__(self) -> None:
        check_ranges(self, "generation setting ")


@dataclass(kw_only=True, frozen=True)
class EndpointSettings:
    """Which model answers where, and how it is called."""

    model: str = field(metadata={"help": "name of the model at the endpoint"})
    base_url: str = field(
        default="https://api.openai.com/v1",
        metadata={"help": "URL of an OpenAI-compatible endpoint (vLLM, a provider), up to and with /v1"},
    )
    api_key_env: str = field(
        default="OPENAI_API_KEY",
        metadata={
            "help": "environment variable that holds the endpoint's key; it may be unset",
            "option": "--key-variable",
        },
    )
    concurrency: int = field(default=16, metadata={"help": "calls at a time", "at_least": 1})
    timeout: float = field(
        default=300.0, metadata={"help": "seconds until a call counts as lost and is tried again", "above": 0}
    )
    max_retries: int = field(default=8, metadata={"help": "times a call is tried again", "at_least": 0})
    token_limit: TokenLimit = field(
        default="max_tokens", metadata={"help": "what the endpoint calls the longest answer"}
    )
    chat_template_kwargs: dict[str, Any] | None = field(
        default=None, metadata={"help": f"{TEMPLATE_KWARGS_HELP}, which vLLM and SGLang take"}
    )
    dollars_in: float | None = field(
        default=None, metadata={"help": "price of a million tokens read, for estimates", "at_least": 0}
    )
    dollars_out: float | None = field(
        default=None, metadata={"help": "price of a million tokens written, for estimates", "at_least": 0}
    )

    def __post_init__(self) -> None:
        if not _names_a_variable(self.api_key_env):  # what it is instead may be the key
            raise InputError(
                "what is given as the name of the key's environment variable is none (letters, digits and _)",
                hint="give the name without $, as in --key-variable OPENAI_API_KEY",
            )
        if any(mark in self.base_url for mark in "@?#"):  # not repeated here either
            raise InputError(
                "the endpoint's URL holds a user name, password or query, or what follows a #",
                hint=f"put the key into the environment variable {self.api_key_env}",
            )
        if not _is_url(self.base_url):
            raise InputError(
                "endpoint setting base_url is no URL of http or https",
                hint="give one such as http://localhost:8000/v1",
            )
        check_ranges(self, "endpoint setting ")
        check_template_kwargs(self.chat_template_kwargs)
        check_choice("endpoint setting token_limit", self.token_limit, TokenLimit)


def _names_a_variable(name: str) -> bool:
    # Some keys look like names; then a variable holds what was meant to be its name.
    expanded = name not in os.environ and not name.isupper() and name in os.environ.values()
    return _VARIABLE.fullmatch(name) is not None and not expanded


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        known = parts.scheme in ("http", "https") and parts.hostname is not None and parts.port != 0
    except ValueError:  # a port that is no number, or half an IPv6 address
        return False
    return known and text.isprintable() and " " not in text
