"""Pairs to be read: the pieces are the rendered text, and each says what it is."""

from __future__ import annotations

import pytest

from families import FAMILIES, tokenizer_of
from families.cases import CASES
from mixdpo import load_pairs
from mixdpo.common.errors import InputError
from mixdpo.data.data_settings import TokenSettings
from mixdpo.data.token_view import Piece, SideView, pair_views, places_of, visible
from mixdpo.data.tokenize import tokens_of
from tiny import byte_level_tokenizer

USER = {"role": "user", "content": "Again?"}


def answer(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


def pairs_of(*rows: tuple[str, list, list]):
    return load_pairs([{"prompt": [{"role": "user", "content": p}], "chosen": c, "rejected": r} for p, c, r in rows])


def said(view: SideView, kind: str) -> list[str]:
    """The texts of a kind, neighbours joined."""
    texts: list[str] = []
    before = None
    for piece in view.pieces:
        if piece.kind == kind:
            texts[-1:] = [texts[-1] + piece.text] if before == kind else [*texts[-1:], piece.text]
        before = piece.kind
    return texts


def test_what_the_assistant_says_is_trained_and_characters_of_several_tokens_are_whole() -> None:
    tokenizer = byte_level_tokenizer()
    pairs = pairs_of(("Hi 易", [answer("易北河 😀"), USER, answer("👩‍💻 x")], [answer("no")]))
    (pair,) = pair_views(pairs, [0], tokenizer, TokenSettings())
    assert said(pair.sides["prompt"], "prompt") == ["<|im_start|>user\nHi 易<|im_end|>\n<|im_start|>assistant\n"]
    chosen = pair.sides["chosen"]
    assert said(chosen, "trained") == ["易北河 😀<|im_end|>", "👩‍💻 x<|im_end|>"]
    assert said(chosen, "untrained") == ["\n<|im_start|>user\nAgain?<|im_end|>\n<|im_start|>assistant\n", "\n"]
    assert [piece.text for piece in chosen.pieces if piece.special][:2] == ["<|im_end|>", "<|im_start|>"]
    assert chosen.tokens == sum(piece.tokens for piece in chosen.pieces)
    assert chosen.trained == sum(piece.tokens for piece in chosen.pieces if piece.kind == "trained")
    assert pair.found == ["untrained_turns"]


@pytest.mark.parametrize("name", FAMILIES)
def test_pieces_are_the_decoded_ids(name: str) -> None:
    tokenizer = tokenizer_of(name)
    row = CASES["plain"].row(FAMILIES[name].thoughts)
    pairs = load_pairs([row])
    tokens, _ = tokens_of(pairs, tokenizer)
    (pair,) = pair_views(pairs, [0], tokenizer, TokenSettings())
    for side in ("chosen", "rejected"):
        text = "".join(piece.text for view in ("prompt", side) for piece in pair.sides[view].pieces)
        assert text == tokenizer.decode(tokens[0]["prompt_ids"] + tokens[0][f"{side}_ids"])


def test_cuts_stand_where_they_were_made() -> None:
    tokenizer = byte_level_tokenizer()
    pairs = pairs_of(("a b c d e f g h", [answer("one two three four")], [answer("x")]))
    (whole,) = pair_views(pairs, [0], tokenizer, TokenSettings(max_length=None))
    limits = TokenSettings(max_length=18, max_prompt_length=12)
    (pair,) = pair_views(pairs, [0], tokenizer, limits)
    prompt, chosen = pair.sides["prompt"], pair.sides["chosen"]
    assert prompt.pieces[:2] == [
        Piece("<|im_start|>", "prompt", special=True, tokens=1),
        Piece("", "cut", special=False, tokens=whole.sides["prompt"].tokens - 12),
    ], "the BOS stays"
    assert chosen.pieces[-1] == Piece("", "cut", special=False, tokens=whole.sides["chosen"].tokens - 6)
    assert (prompt.tokens, chosen.tokens) == (12, 6)
    assert {"prompt_truncated", "chosen_truncated"} <= set(pair.found)


def test_a_dropped_pair_says_why_and_is_shown_where_only_its_length_is_to_blame() -> None:
    tokenizer = byte_level_tokenizer()
    tokenizer.chat_template = "{% if messages[0].content == 'no' %}{{ raise_exception('No.') }}{% endif %}" + str(
        tokenizer.chat_template
    )
    pairs = pairs_of(("no", [answer("a")], [answer("b")]), ("yes " * 9, [answer("a")], [answer("b")]))
    refused, long = pair_views(pairs, [0, 1], tokenizer, TokenSettings(max_length=9))
    assert (refused.found, refused.refusal, refused.sides) == (["template_refused"], "No.", {})
    assert refused.is_dropped
    assert long.found == ["prompt_too_long"]
    assert said(long.sides["chosen"], "trained") == ["a<|im_end|>\n"]


def test_rows_are_those_of_the_file(tmp_path) -> None:
    file = tmp_path / "pairs.jsonl"
    good = '{"prompt": "a", "chosen": "b", "rejected": "c%d"}\n'
    file.write_text(good % 0 + '{"prompt": "", "chosen": "b", "rejected": "c"}\n' + good % 1)
    pairs = load_pairs(str(file))
    assert places_of(pairs, [3]) == [1]
    with pytest.raises(InputError, match="row 2"):
        places_of(pairs, [2])


def test_every_character_shows() -> None:
    assert visible("a\n\tb\x1b[31m\u202e\x9b\u2028") == "a⏎\n⇥b\\x1b[31m\\u202e\\x9b\\u2028"
    assert visible("👩‍💻 é 易 <b> [red]") == "👩‍💻 é 易 <b> [red]"
