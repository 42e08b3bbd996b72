"""From answers with scores to pairs that are read back with all that is known of them, and a count of everything."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mixdpo import load_pairs, score
from mixdpo.auditing.noise import noise_figures
from mixdpo.cli.main import main
from mixdpo.common.errors import InputError, RunError
from mixdpo.data.arrays import float_column
from mixdpo.data.pair_files import save_pairs
from mixdpo.pairs.answered import Answer, AnsweredPrompt, write_answered
from mixdpo.pairs.make_pairs import make_pairs, report_lines, rules_table, save_made_pairs
from mixdpo.pairs.selection_settings import RULE_NAMES, SelectionSettings
from mixdpo.pairs.usable import usable_answers


def prompt(number: int, *answers: Answer) -> AnsweredPrompt:
    return AnsweredPrompt(f"p{number}", "uid", (("user", f"Name river number {number}."),), answers)


def answer(text: str, score: float, **more: Any) -> Answer:
    return Answer(text=text, model=more.pop("model", "m"), score=score, **more)


WORDS = [f"word{number}" for number in range(3000)]


def many(prompts: int, answers: int = 6, seed: int = 0) -> list[AnsweredPrompt]:
    """Answers of random words, with scores from 1 to 10 and two judges who differ by chance."""
    rng = random.Random(seed)

    def one(number: int) -> Answer:
        first, second = rng.randint(1, 10), rng.randint(1, 10)
        text = " ".join(rng.choices(WORDS, k=rng.randint(5, 60)))
        ratings = {"a": float(first), "b": float(second)}
        return answer(text, (first + second) / 2, model=f"model-{number % 2}", finished=True, ratings=ratings)

    return [prompt(number, *map(one, range(answers))) for number in range(prompts)]


def written(prompts: Sequence[AnsweredPrompt], output: Path, **settings: Any) -> dict[str, Any]:
    made = make_pairs(prompts, SelectionSettings(**settings))
    save_made_pairs(made, output)
    return made.report


@pytest.mark.parametrize("name", ["pairs.parquet", "pairs.jsonl", "pairs.csv"])
def test_pairs_are_read_back_with_scores_ratings_models_and_prompts(name: str, tmp_path: Path) -> None:
    prompts = many(40)
    chat = (("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"), ("user", "A river?"))
    prompts.append(replace(prompts[0], id=7, chat=chat))
    report = written(prompts, tmp_path / name, select=("best-worst",))
    pairs = load_pairs(tmp_path / name)
    assert len(pairs) == report["pairs"] == 41
    by_text = {one.text: one for each in prompts for one in each.answers}
    for pair in pairs:
        for side in ("chosen", "rejected"):
            ((text, role),) = [(message["content"], message["role"]) for message in pair[side]]
            assert (role, pair[f"score_{side}"]) == ("assistant", by_text[text].score)
            assert pair[f"ratings_{side}"] == list(by_text[text].ratings.values())
    assert [message["content"] for message in pairs[40]["prompt"]] == [content for _, content in chat]
    kept = Path(tmp_path / f"kept-{name}")
    assert main(["score", str(tmp_path / name), "--metric", "rating", "--metric", "agreement", "-o", str(kept)]) == 0
    scored = load_pairs(kept)
    assert float_column(scored, "margin/rating").tolist() == [p["score_chosen"] - p["score_rejected"] for p in pairs]


def test_models_and_prompts_go_with_the_pairs(tmp_path: Path) -> None:
    written(many(3), tmp_path / "pairs.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    assert [row["prompt_id"] for row in rows] == ["p0", "p1", "p2"]
    assert {row[f"model_{side}"] for row in rows for side in ("chosen", "rejected")} == {"model-0", "model-1"}


def test_agreement_and_the_estimate_of_noise_read_the_judges_ratings() -> None:
    made = make_pairs(many(300), SelectionSettings(select=("best-random",)))
    margins = score(load_pairs(made.pairs), ["rating", "agreement"])
    values = {name: float_column(margins, f"margin/{name}") for name in ("rating", "agreement")}
    assert ((values["rating"] > 0) == (values["agreement"] > 0)).all()
    ratings = [[float(n) for n in row] for row in made.pairs["ratings_chosen"]]
    judge = [chosen[0] - rejected[0] for chosen, rejected in zip(ratings, made.pairs["ratings_rejected"], strict=True)]
    import numpy as np

    opinions = {"a": np.array(judge), "rating": values["rating"]}
    figures, _, _ = noise_figures(opinions, None, np.random.default_rng(0))
    assert figures["disagreement"]["rating"]["value"] == 0
    assert 0 < figures["disagreement"]["a"]["value"] < 0.5


def test_another_order_and_a_part_of_the_file_give_the_same_pairs() -> None:
    prompts, settings = many(30), SelectionSettings(select=("best-random", "ties", "neighbours"), max_per_prompt=2)
    rng = random.Random(1)
    other = [replace(one, answers=tuple(rng.sample(one.answers, len(one.answers)))) for one in prompts]
    rng.shuffle(other)

    def pairs_of(given: Sequence[AnsweredPrompt]) -> set[str]:
        return {json.dumps(pair) for pair in make_pairs(given, settings).pairs}

    assert pairs_of(other) == pairs_of(prompts)
    assert pairs_of(prompts[10:20]) < pairs_of(prompts)


def test_of_equally_good_answers_the_first_sample_is_chosen_of_any_model() -> None:
    def of_models(number: int) -> AnsweredPrompt:
        later = [answer(f"{number} {name} later", 2, model=name, columns={"sample": 1}) for name in "ab"]
        first = [answer(f"{number} {name} first", 2, model=name, columns={"sample": 0}) for name in "ab"]
        return prompt(number, *later, *first, answer("worse", 1, columns={"sample": 0}))

    pairs = make_pairs([of_models(number) for number in range(40)], SelectionSettings(select=("best-worst",))).pairs
    assert all(pair[0]["content"].endswith("first") for pair in pairs["chosen"])
    assert 10 <= pairs["model_chosen"].count("a") <= 30


def test_what_is_left_out_is_counted_by_answer_and_by_prompt() -> None:
    poem = " ".join(WORDS[:60])
    prompts = [
        prompt(0, answer("a b c d", 1), answer("e f g h", 2), answer("", 9), answer(" \n", 9)),
        prompt(1, answer("a b c d", 1), answer("e f g h", 2), answer("no score", float("nan")), answer("", 1)),
        prompt(2, answer("a b c d", 1), answer("cut off", 3, finished=False), answer("e f g h", 1)),
        prompt(3, answer("same text", 1), answer("same text", 4)),
        prompt(4, answer(poem, 1), answer(poem.upper().replace(" ", ", "), 2), answer(poem + " end", 3)),
        prompt(5, answer("only one", 5)),
    ]
    made = make_pairs(prompts, SelectionSettings(select=("best-worst",)))
    assert made.report["answers"]["left_out"] == {
        "empty": {"answers": 3, "prompts": 2},
        "no_score": {"answers": 1, "prompts": 1},
        "cut": {"answers": 1, "prompts": 1},
        "identical": {"answers": 1, "prompts": 1},
        "near_identical": {"answers": 2, "prompts": 1},
    }
    assert made.report["prompts"] == {
        "read": 6, "with_pairs": 2, "without_pairs": {"one_answer": 1, "too_few_left": 2, "all_equal": 1}
    }  # fmt: skip
    assert made.report["answers"]["read"] == 17
    assert made.report["answers"]["in_pairs"] == 4
    lines = report_lines(made.report)
    assert any(line.startswith("3 answers to 2 prompts") and "white space" in line for line in lines)
    assert any(line.startswith("1 prompts without a pair") and "one score" in line for line in lines)
    with_cut = make_pairs(prompts, SelectionSettings(select=("best-worst",), keep_cut=True))
    assert with_cut.report["pairs"] == 3


def words_of(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[at : at + 3]) for at in range(max(1, len(words) - 2))}


@pytest.mark.parametrize("least", [0.5, 0.8, 1.0])
def test_near_identical_is_the_jaccard_similarity_of_word_trigrams(least: float) -> None:
    """Against sets of tuples: no two that are kept are alike, and each that is left out is like one that is kept."""
    rng = random.Random(3)
    settings = SelectionSettings(near_similarity=least)
    prompts = []
    for number in range(40):
        base = rng.choices(WORDS, k=30)
        texts = []
        for _ in range(8):
            changed = [rng.choice(WORDS) if rng.random() < rng.choice([0, 0.02, 0.1]) else word for word in base]
            texts.append(" ".join(changed))
        prompts.append(prompt(number, *(answer(text, 1.0) for text in dict.fromkeys(texts))))

    def alike(first: str, second: str) -> bool:
        one, other = words_of(first), words_of(second)
        return len(one & other) >= least * len(one | other)

    left_out = 0
    for each, kept in zip(prompts, usable_answers(prompts, settings).answers, strict=True):
        texts = [one.text for one in kept]
        assert not any(alike(a, b) for at, a in enumerate(texts) for b in texts[:at])
        gone = [one.text for one in each.answers if one not in kept]
        assert all(any(alike(text, other) for other in texts) for text in gone)
        left_out += len(gone)
    assert (left_out > 0) is (least < 1)


def test_the_table_says_what_every_rule_gives_and_marks_what_is_written() -> None:
    short, long = "a b c", "d e f g h i j k"
    prompts = [prompt(0, answer(short, 1), answer(long, 4)), prompt(1, answer(short, 2), answer(long, 2))]
    report = make_pairs(prompts, SelectionSettings(select=("best-worst", "ties"), gap=1)).report
    by_rule = {one["rule"]: one for one in report["rules"]}
    assert list(by_rule) == [*RULE_NAMES, "together"]
    assert [name for name, one in by_rule.items() if one["written"]] == ["together"]
    assert {name: one["pairs"] for name, one in by_rule.items()} == {
        **dict.fromkeys(("best-worst", "best-random", "best-low", "gap"), 1),
        "best-each": 2, "all": 2, "neighbours": 2, "ties": 1, "together": 2,
    }  # fmt: skip
    assert by_rule["best-worst"] == {
        "rule": "best-worst", "written": False, "pairs": 1, "prompts": 1, "ties": 0.0, "longer": 1.0,
        "margin": {"10 %": 3.0, "median": 3.0, "90 %": 3.0}, "length_difference": len(long) - len(short),
    }  # fmt: skip
    assert by_rule["all"]["ties"] == 0.5
    table = rules_table(report)
    assert [row[0] for row in table.rows if row[0].endswith(" *")] == ["together *"]
    assert table.rows[0][1:] == ["1", "1", "3", "3 to 3", "0 %", "100 %", "+10"]
    alone = make_pairs(prompts, SelectionSettings(select=("best-worst",))).report
    assert [one["rule"] for one in alone["rules"] if one["written"]] == ["best-worst"]
    assert "gap" not in {one["rule"] for one in alone["rules"]}, "no margin is looked for"


def test_reasoning_stays_beside_the_answer(tmp_path: Path) -> None:
    thought = answer("Elbe", 3, columns={"reasoning": "Rivers.", "sample": 0})
    made = make_pairs([prompt(0, thought, answer("no", 1))], SelectionSettings())
    save_pairs(made.pairs, tmp_path / "pairs.jsonl")
    (pair,) = load_pairs(tmp_path / "pairs.jsonl")
    assert pair["chosen"] == [{"role": "assistant", "content": "Elbe", "reasoning_content": "Rivers."}]
    assert made.report["columns_left_out"] == ["sample"]


def test_writers_decide_which_answer_is_better_and_scores_do_not(refused: Any) -> None:
    """Delta learning: the larger model's answer is chosen, whatever a judge said of it."""
    texts = {"large": "one", "small": "two", "other": "three"}
    scores = {"large": 1.0, "small": 9.0, "other": float("nan")}
    given = [prompt(n, *(answer(f"{texts[m]} {n}", scores[m], model=m) for m in texts)) for n in range(5)]
    settings = SelectionSettings(select=("best-worst",), writers=("large", "small"))
    made = make_pairs(given, settings)
    assert made.pairs["model_chosen"][:] == ["large"] * 5
    assert made.pairs["model_rejected"][:] == ["small"] * 5
    assert set(made.pairs["score_chosen"]) == {1.0}
    assert set(made.pairs["score_rejected"]) == {0.0}
    assert made.report["answers"]["left_out"] == {"no_score": {"answers": 5, "prompts": 5}}
    refused(lambda: make_pairs(given, SelectionSettings(writers=("a", "b"))), "by a or b", "large, other, small")
    refused(lambda: SelectionSettings(writers=("large",)), "--writer BETTER --writer WORSE")


def test_answers_without_scores_and_without_pairs_are_refused(tmp_path: Path) -> None:
    unrated = [prompt(0, answer("a", float("nan")), answer("b", float("nan")))]
    with pytest.raises(InputError, match="mixdpo rate"):
        make_pairs(unrated, SelectionSettings())
    equal = make_pairs([prompt(0, answer("a", 1), answer("b", 1))], SelectionSettings())
    with pytest.raises(RunError, match="one score"):
        save_made_pairs(equal, tmp_path / "pairs.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_the_command_prints_the_table_and_writes_only_with_an_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rated, output = tmp_path / "rated.jsonl", tmp_path / "pairs.parquet"
    write_answered(rated, many(20))
    assert main(["pairs", str(rated)]) == 0
    assert "best-each" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["rated.jsonl"]
    assert main(["pairs", str(rated), "--select", "all", "--select", "ties", "-o", str(output)]) == 0
    assert "together" in capsys.readouterr().out
    assert len(load_pairs(output)) == json.loads((tmp_path / "pairs.report.json").read_text())["pairs"]
    assert main(["pairs", str(rated), "--select", "gap", "-o", str(output)]) == 2
    assert main(["pairs", str(rated), "-o", str(tmp_path / "pairs.txt")]) == 2
