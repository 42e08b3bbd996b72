"""What can be counted on the surface of each pair: lengths, style cues, scripts, traces of templates.

One pass over the texts; the result has a few numbers per pair and no text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import polars as pl
from datasets import Dataset

from mixdpo.auditing.texts import SIDES, text_batches

CUES: Final[dict[str, str]] = {
    "list items": r"(?m)^[ \t]*(?:[-*•]|[0-9]{1,3}[.)])[ \t]+\S",
    "bold": r"\*\*[^*\n]+\*\*",
    "headings": r"(?m)^#{1,6}[ \t]+\S",
    "code blocks": r"(?m)^[ \t]*```",
    "paragraphs": r"\n[ \t]*\n",
    "links": r"https?://",
    "questions": r"\?",
    "exclamations": r"!",
    "digits": r"[0-9]+",
    "refusals": r"(?-u:\bi(?: can(?:not|'t)| won't| will not|(?:'m| am) (?:unable|not able))\b|\bas an ai\b)",
    "apologies": r"(?-u:\b(?:sorry|apologi[sz]e|apologies)\b)",
}
"""Style cues and what one of them looks like in lower case (Rust's regular expressions, counted without overlap)."""

_LINE: Final = "(?m)^"

SCRIPTS: Final = (
    "Latin", "Han", "Hiragana", "Katakana", "Hangul", "Cyrillic", "Arabic", "Devanagari", "Greek", "Hebrew", "Thai",
)  # fmt: skip

_SPACELESS: Final = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}\p{Yi}"
_CLUSTER: Final = rf"[[{_SPACELESS}]--\p{{M}}]"
"""The first character of a grapheme cluster in scripts that put no space between words; the others are marks."""
_WORD: Final = rf"{_CLUSTER}|[^\s{_SPACELESS}]+"

SPECIAL: Final = (
    r"<\|(?:im_start|im_end|endoftext|begin_of_text|end_of_text|eot_id|start_header_id|end_header_id|system|user"
    r"|assistant|pad)\|>|</?s>|<(?:bos|eos|pad|unk)>|<(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>"
)
"""Special tokens of common chat templates; in a text they become a second BOS, an early end, or a false turn."""


def surface_features(dataset: Dataset, special_tokens: Sequence[str] = ()) -> pl.DataFrame:
    """Count on the surface of each pair.

    Args:
        dataset: pairs from `load_pairs`.
        special_tokens: of the tokenizer, looked for besides those of `SPECIAL`.

    Returns:
        one row per pair, in order: `row`, `turns`, `bad_turns`, `prompt/script`, and per side S (prompt, chosen,
        rejected) `S/chars`, `S/words` (between white space; in scripts that have none between words,
        every grapheme cluster), `S/broken` (U+FFFD characters), `S/special` (special
        tokens), `S/hash` (uint64, of the text without case and runs of white space); for both answers also `S/<cue>`
        of `CUES` and `S/reasoning` (1 where it begins with reasoning, which is not counted in length and style); and
        `question/hash`, of the prompt with its system messages and tools.
    """
    special = "|".join([SPECIAL, *(re.escape(token) for token in special_tokens if token.strip())])
    return pl.concat([_features(batch, special) for batch in text_batches(dataset, "surface", context=True)])


def _features(batch: pl.DataFrame, special: str) -> pl.DataFrame:
    expressions = [pl.col("row", "turns", "bad_turns"), _script(pl.col("prompt")).alias("prompt/script")]
    # Texts are made lower and plain once where no answer begins with reasoning, as in most data.
    answers = {
        side: f"{side}/answer"
        for side in SIDES
        if f"{side}/answer" in batch.columns and not batch[side].equals(batch[f"{side}/answer"])
    }
    for side in SIDES:
        whole = pl.col(side)
        text, lower, plain = (pl.col(f"{answers.get(side, side)}{form}") for form in ("", "/lower", "/plain"))
        counted = {
            "chars": text.str.len_chars(),
            "words": _words(plain),
            "broken": whole.str.count_matches("\ufffd"),
            "special": whole.str.count_matches(special),
            **({} if side == "prompt" else {"reasoning": text != whole}),
            **({cue: _matches(lower, pattern) for cue, pattern in CUES.items()} if side != "prompt" else {}),
        }
        expressions += [count.cast(pl.UInt32).alias(f"{side}/{name}") for name, count in counted.items()]
        expressions.append(pl.col(f"{side}/plain").hash(seed=0).alias(f"{side}/hash"))
    question = pl.concat_str(pl.col("context").fill_null(""), pl.col("prompt/plain"), separator="\0")
    expressions.append(question.hash(seed=0).alias("question/hash"))
    texts = [*SIDES, *answers.values()]
    with_lower = batch.lazy().with_columns(pl.col(name).str.to_lowercase().alias(f"{name}/lower") for name in texts)
    both = with_lower.with_columns(_single_spaced(pl.col(f"{name}/lower")).alias(f"{name}/plain") for name in texts)
    return both.select(expressions).collect()


def _matches(text: pl.Expr, pattern: str) -> pl.Expr:
    """Count a pattern; one that starts a line is looked for behind line breaks, up to ten times as fast as by `^`."""
    if not pattern.startswith(_LINE):
        return text.str.count_matches(pattern)
    rest = pattern.removeprefix(_LINE)
    return text.str.contains(rf"\A{rest}").cast(pl.UInt32) + text.str.count_matches(rf"\n{rest}")


def _words(plain: pl.Expr) -> pl.Expr:
    """Count the words of single-spaced texts."""
    # A regular expression counts one character in half the time that `literal=True` takes.
    spaced = plain.str.count_matches(" ") + (plain != "").cast(pl.UInt32)
    ascii_only = plain.str.len_bytes() == plain.str.len_chars()
    rest = pl.when(ascii_only).then(pl.lit("")).otherwise(plain)  # of most data nothing
    return pl.when(rest.str.contains(_CLUSTER)).then(rest.str.count_matches(_WORD)).otherwise(spaced)


def _single_spaced(text: pl.Expr) -> pl.Expr:
    # Leaves alone what is one space already, which most white space is: five times as fast as replacing all of it.
    return text.str.replace_all(r"\s{2,}|[^\S ]", " ").str.strip_chars()


def _script(text: pl.Expr) -> pl.Expr:
    """Return the script most letters of a text are of; `other` where none of `SCRIPTS` occurs."""
    ascii_only = text.str.len_bytes() == text.str.len_chars()
    # Plain ASCII needs no look at the Unicode tables, and is most of most data.
    rest = pl.when(ascii_only).then(pl.lit("")).otherwise(text)
    counts = pl.concat_list([rest.str.count_matches(rf"\p{{{script}}}") for script in SCRIPTS])
    found = counts.list.arg_max().replace_strict(dict(enumerate(SCRIPTS)), return_dtype=pl.String)
    named = pl.when(counts.list.max() > 0).then(found).otherwise(pl.lit("other"))
    plain = pl.when(text.str.contains("[A-Za-z]")).then(pl.lit("Latin")).otherwise(pl.lit("other"))
    return pl.when(ascii_only).then(plain).otherwise(named)
