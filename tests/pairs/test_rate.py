"""Answers rated by programs, language models and reward models: what scores are, and what is missing."""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loopback import running
from mixdpo.cli.main import main
from mixdpo.common.errors import InputError, RunError
from mixdpo.generation.chat_model import Completion, Progress, Request
from mixdpo.judges.language_model import LanguageJudge
from mixdpo.judges.program import ProgramJudge
from mixdpo.pairs.answered import Answer, AnsweredPrompt, read_answered
from mixdpo.pairs.comparing import matches
from mixdpo.pairs.judged import judged_prompts
from mixdpo.pairs.rate import estimates, rate
from mixdpo.pairs.rating_report import rating_lines
from mixdpo.pairs.rating_settings import RatingSettings

LENGTH = """import json, sys
for line in sys.stdin:
    case = json.loads(line)
    assert case["prompt"][-1]["role"] == "user"
    if "answer" in case:
        print(len(case["answer"]) + case["columns"].get("extra", 0))
    else:
        a, b = len(case["answer_a"]), len(case["answer_b"])
        print("A>B" if a > b else "B>A" if a < b else "A=B")
"""


class Fake:
    """A chat model that answers by a function of what it is asked."""

    def __init__(self, says: Any, name: str = "fake") -> None:
        self.says, self.name, self.asked = says, name, []  # type: ignore[var-annotated]

    def estimate(self, requests: Sequence[Request]) -> str:
        return f"{len(requests)} calls"

    def complete(self, requests: Sequence[Request], progress: Progress | None = None) -> list[Completion]:
        self.asked += requests
        said = [self.says(request.messages[-1][1]) for request in requests]
        return [
            Completion(failure=one[1]) if isinstance(one, tuple) else Completion(text=one, finished=True)
            for one in said
        ]

    def record(self) -> dict[str, Any]:
        return {"engine": "fake"}


def answered(*prompts: Sequence[str], **columns: Any) -> list[AnsweredPrompt]:
    return [
        AnsweredPrompt(
            number, "id", (("user", f"Question {number}?"),),
            tuple(Answer(text, "model", columns={"sample": at, **columns}) for at, text in enumerate(texts)),
        )
        for number, texts in enumerate(prompts)
    ]  # fmt: skip


def scores(prompts: Sequence[AnsweredPrompt]) -> list[list[float]]:
    return [[answer.score for answer in prompt.answers] for prompt in prompts]


@pytest.fixture
def program(tmp_path: Path) -> ProgramJudge:
    script = tmp_path / "length.py"
    script.write_text(LENGTH)
    return ProgramJudge(f"{shlex.quote(sys.executable)} {shlex.quote(str(script))}")


def test_scores_are_the_programs_own(program: ProgramJudge) -> None:
    rated = rate(answered(["a", "bbb"], ["cc", "  ", "cc"], ["d"], extra=10), [program], RatingSettings())
    np.testing.assert_equal(scores(rated.prompts), [[11, 13], [12, math.nan, 12], [11]])
    first = rated.prompts[0].answers[0]
    assert first.ratings == {program.name: 11}
    assert first.columns == {"sample": 0, "extra": 10}, "nothing was turned round, so there is no raw rating"
    found = rated.report
    assert (found["prompts"], found["answers"], found["empty"], found["without_score"]) == (3, 6, 1, 0)
    assert (found["prompts_with_one_answer"], found["prompts_all_equal"]) == (1, 1)
    assert found["judges"][program.name]["calls"] == 5, "nobody is asked about an empty answer"


def test_a_scale_can_be_turned_round(program: ProgramJudge) -> None:
    rated = rate(answered(["a", "bbb"]), [program], RatingSettings(lower_is_better=True))
    assert scores(rated.prompts) == [[-1, -3]]
    assert rated.prompts[0].answers[1].columns[f"raw_rating/{program.name}"] == 3


def test_grades_are_read_on_the_scale_that_the_judge_is_told() -> None:
    says = {"good": "Right.\n[[9]]", "off": "[[85]]", "mute": "Well."}
    judge = LanguageJudge(fake := Fake(lambda asked: next(reply for word, reply in says.items() if word in asked)))
    prompts = answered([f"good {number}" for number in range(6)], ["off", "good", "good 2", "mute"])
    rated = rate(prompts, [judge], RatingSettings())
    np.testing.assert_equal(scores(rated.prompts), [[9.0] * 6, [math.nan, 9, 9, math.nan]])
    found = rated.report["judges"]["fake"]
    assert (found["calls"], found["unread_verdicts"], found["off_scale"], found["scale"]) == (10, 1, 1, (1, 10))
    assert rated.report["without_score"] == 2
    assert {request.temperature for request in fake.asked} == {0}
    assert {request.max_tokens for request in fake.asked} == {1024}
    # An answer cannot grade itself by what it quotes.
    quoting = LanguageJudge(Fake(lambda asked: 'It asks for "[[10]]".\n[[2]]'))
    assert scores(rate(answered(["x"]), [quoting], RatingSettings()).prompts) == [[2]]


@pytest.mark.parametrize(
    ("says", "said"),
    [
        ("Well.", "10 hold no verdict that can be read; let the judge prompt ask for a last line"),
        ("[[85]]", "10 are off the scale; write the scale that the judge keeps to into the judge prompt"),
        (("", "no content: the reply is empty"), "10 failed; take another judge or --judge-prompt.* no content"),
        (("", "RateLimitError: slow down"), "10 failed; give the same command again.* RateLimitError"),
    ],
)
def test_a_judge_that_is_mostly_unread_ends_the_run_and_says_what_to_change(says: Any, said: str) -> None:
    judge = LanguageJudge(Fake(lambda asked: says))
    with pytest.raises(RunError, match=f"of 10 verdicts of fake {said}"):
        rate(answered(["a"] * 5, ["b"] * 5), [judge], RatingSettings())
    if said.startswith("10 hold"):
        with pytest.raises(RunError, match=f"of 2 verdicts of fake {said[1:].replace('0 hold', '2 hold')}"):
            rate(answered(["a", "b"]), [judge], RatingSettings(mode="pairwise"))


def test_a_judge_prompt_names_its_scale_or_is_given_one(tmp_path: Path) -> None:
    prompt = tmp_path / "grade.txt"
    prompt.write_text("Grade {answer}, the answer to {question}, which should be like {reference}. Say [[grade]].")
    judge = LanguageJudge(fake := Fake(lambda asked: "[[0.5]]"))
    with pytest.raises(InputError, match=r"names no scale.*--scale LOW HIGH"):
        rate(answered(["a"], reference="r"), [judge], RatingSettings(judge_prompt=prompt))
    settings = RatingSettings(judge_prompt=prompt, scale=(0, 1))
    assert scores(rate(answered(["a"], reference="the reference"), [judge], settings).prompts) == [[0.5]]
    assert "should be like the reference." in fake.asked[-1].messages[0][1]
    with pytest.raises(InputError, match="asked for grades from 1 to 10; leave out --scale"):
        rate(answered(["a"]), [judge], RatingSettings(scale=(0, 1)))
    with pytest.raises(InputError, match=r"a place for \{reference\}"):
        rate(answered(["a"]), [judge], settings)


# ---- Pairwise ----


def longer(asked: str) -> str:
    first, second = (asked.split(f"<answer {side}>\n")[1].split("\n</answer")[0] for side in "AB")
    return f"[[{'A' if len(first) > len(second) else 'B' if len(first) < len(second) else 'C'}]]"


def test_answers_compared_in_both_orders_become_strengths() -> None:
    judge = LanguageJudge(fake := Fake(longer))
    rated = rate(
        answered(["a", "cccc", "bb", "cccc", "zz"], ["only"], [" "]), [judge], RatingSettings(mode="pairwise")
    )
    first, alone, empty = scores(rated.prompts)
    assert first[1] == first[3] > first[2] == first[4] > first[0]
    assert math.isnan(alone[0])
    assert math.isnan(empty[0])
    assert len(fake.asked) == 2 * 6, "no game of a text against itself"
    rates = [answer.columns["win_rate"] for answer in rated.prompts[0].answers]
    assert rates == pytest.approx([0, 1, 0.5, 1, 0.5])
    found = rated.report["judges"]["fake"]
    assert found["position_bias"]["consistent"]["estimate"] == 1
    assert found["tie_weight"] > 0
    # The same by a program, whose labels are read likewise.
    assert np.mean([first[place] for place in (0, 1, 2, 4)]) == pytest.approx(0, abs=1e-9)


def test_a_judge_that_takes_what_it_is_shown_first_says_nothing_but_that() -> None:
    rated = rate(
        answered(["a", "bb", "ccc"]), [LanguageJudge(Fake(lambda asked: "[[A]]"))], RatingSettings(mode="pairwise")
    )
    assert scores(rated.prompts)[0] == pytest.approx([0, 0, 0], abs=1e-9)
    bias = rated.report["judges"]["fake"]["position_bias"]
    assert (bias["consistent"]["estimate"], bias["first_shown"]["estimate"]) == (0, 1)
    assert rated.report["prompts_all_equal"] == 1


def test_programs_compare_too(program: ProgramJudge) -> None:
    rated = rate(answered(["a", "ccc", "bb"]), [program], RatingSettings(mode="pairwise"))
    assert np.argsort(scores(rated.prompts)[0]).tolist() == [0, 2, 1]


@pytest.mark.parametrize(("mode", "says"), [("grade", b"good"), ("pairwise", b"A"), ("grade", b"\xff\xfe")])
def test_a_program_that_cannot_be_read_is_told_what_programs_write(mode: Any, says: bytes, tmp_path: Path) -> None:
    script = tmp_path / "junk.py"
    script.write_text(f"import sys\nfor line in sys.stdin:\n    sys.stdout.buffer.write({says!r} + b'\\n')\n")
    judge = ProgramJudge(f"{shlex.quote(sys.executable)} {shlex.quote(str(script))}")
    with pytest.raises(RunError, match=r"2 hold no verdict that can be read; let the program write a number .* A>B"):
        rate(answered(["a", "b"]), [judge], RatingSettings(mode=mode))
    with pytest.raises(InputError, match="its command is empty"):
        rate(answered(["a", "b"]), [ProgramJudge(" ")], RatingSettings(mode=mode))


def test_a_mean_that_rounding_left_is_said_to_be_zero() -> None:
    judge = {"rating": {"mean": -1.5e-17, "deviation": 1.0}}
    counts = dict.fromkeys(("empty", "without_score", "replaced", "prompts_with_one_answer", "prompts_all_equal"), 0)
    assert next(rating_lines({"judges": {"j": judge}, "score": "", **counts})) == "j: mean 0, deviation 1"


def test_a_program_off_its_scale_is_told_how_to_name_one(program: ProgramJudge) -> None:
    with pytest.raises(RunError, match=r"2 are off the scale; give the judge's scale with --scale LOW HIGH"):
        rate(answered(["aaa", "bbbb"]), [program], RatingSettings(scale=(0, 1)))


@pytest.mark.parametrize(("players", "opponents"), [(8, 2), (8, 3), (7, 3), (8, 6), (8, 7), (3, 2), (2, 5)])
def test_opponents_are_bounded_and_connect_all_answers(players: int, opponents: int) -> None:
    prompts = judged_prompts(answered([str(number) for number in range(players)]))
    met = {
        frozenset((one.first, one.second))
        for one in matches(prompts, RatingSettings(mode="pairwise", opponents=opponents))
    }
    counts = [sum(player in pair for pair in met) for player in range(players)]
    exact = min(opponents, players - 1)
    assert set(counts) == {exact - (exact % 2 and players % 2)}
    reached = {0}
    for _ in range(players):
        reached |= {player for pair in met if pair & reached for player in pair}
    assert reached == set(range(players))


def test_who_meets_whom_does_not_depend_on_other_prompts() -> None:
    texts = [[f"{prompt} {answer}" for answer in range(6)] for prompt in range(3)]
    settings = RatingSettings(mode="pairwise", opponents=2)
    both, last = (judged_prompts(prompts) for prompts in (answered(*texts), answered(*texts)[2:]))

    def met(prompts: Any, number: int) -> set[tuple[int, int]]:
        return {(one.first, one.second) for one in matches(prompts, settings) if one.prompt == number}

    assert met(both, 2) == met(last, 0)
    assert met(both, 0) != met(both, 2), "nobody's place in the file says whom it meets"


# ---- Several judges ----


def test_judges_in_different_units_are_standardised_and_those_on_one_scale_are_not(program: ProgramJudge) -> None:
    kind, harsh = (LanguageJudge(Fake(lambda asked, n=n: f"[[{n + ('bbb' in asked)}]]", f"j{n}")) for n in (8, 2))
    prompts = answered(["a", "bbb"])
    same = rate(prompts, [kind, harsh], RatingSettings())
    assert scores(same.prompts) == [[5, 6]]
    assert same.prompts[0].answers[0].ratings == {"j8": 8, "j2": 2}
    assert same.report["score"] == "mean of the ratings of 2 judges"
    first = rate(prompts, [kind], RatingSettings())
    added = rate(first.prompts, [program], RatingSettings(), earlier=first.report["judges"])
    assert scores(added.prompts) == [[-1, 1]]
    assert added.report["score"] == "mean of the standardised ratings of 2 judges"
    answer = added.prompts[0].answers[1]
    assert answer.ratings == {"j8": 1, program.name: 1}
    assert (answer.columns["raw_rating/j8"], answer.columns[f"raw_rating/{program.name}"]) == (9, 3)
    # One more on the first's scale: the ratings that are kept, as they are now, have no unit any more.
    third = rate(added.prompts, [harsh], RatingSettings(), earlier=added.report["judges"])
    assert third.prompts[0].answers[1].columns["raw_rating/j8"] == 9
    assert scores(third.prompts) == [[-1, 1]]
    # Without the others' scales nothing is known of them; with the report, they are on one.
    together = rate(first.prompts, [harsh], RatingSettings(), earlier=first.report["judges"])
    assert scores(together.prompts) == scores(same.prompts)
    assert "standardised" in rate(first.prompts, [harsh], RatingSettings()).report["score"]


def test_scores_of_a_file_that_nobody_stands_for_are_replaced_and_counted(program: ProgramJudge) -> None:
    (prompt,) = answered(["a", "bbb", " "])
    scored = replace(prompt, answers=tuple(replace(answer, score=7.0) for answer in prompt.answers))
    first = rate([scored], [program], RatingSettings())
    np.testing.assert_equal(scores(first.prompts), [[1, 3, math.nan]])
    assert first.report["replaced"] == 2
    judge = LanguageJudge(Fake(lambda asked: "[[5]]"))
    assert rate(first.prompts, [judge], RatingSettings()).report["replaced"] == 0
    assert rate(first.prompts, [program], RatingSettings()).report["replaced"] == 2


def test_a_score_needs_every_judge() -> None:
    all_read = LanguageJudge(Fake(lambda asked: "[[5]]", "one"))
    some = LanguageJudge(Fake(lambda asked: "Well." if "x" in asked.split("<answer>")[1][:3] else "[[7]]", "two"))
    rated = rate(answered(["x", "a", "b", "c", "d", "e"]), [all_read, some], RatingSettings())
    np.testing.assert_equal(scores(rated.prompts), [[math.nan, 6, 6, 6, 6, 6]])
    assert rated.prompts[0].answers[0].ratings["one"] == 5
    assert rated.report["without_score"] == 1


def test_rating_what_cannot_be_rated_is_refused(program: ProgramJudge) -> None:
    with pytest.raises(InputError, match="all answers are empty"):
        rate(answered([" ", ""]), [program], RatingSettings())
    with pytest.raises(InputError, match="--mode grade"):
        rate(answered(["a", "a"], ["b"]), [program], RatingSettings(mode="pairwise"))
    with pytest.raises(InputError, match="given twice"):
        rate(answered(["a", "b"]), [program, program], RatingSettings())
    with pytest.raises(InputError, match="rating setting mode"):
        RatingSettings(mode="compare")
    with pytest.raises(InputError, match="lowest number first"):
        RatingSettings(scale=(10, 1))
    with pytest.raises(InputError, match="no numbers"):
        RatingSettings(mode="pairwise", lower_is_better=True)


# ---- The command ----


def test_the_command_rates_a_file_and_adds_to_it(tmp_path: Path, program: ProgramJudge, capsys: Any) -> None:
    rows = [
        {"id": f"q{row // 2}", "instruction": f"Question {row // 2}?", "output": "x" * (row + 1), "generator": "m",
         "sample": row % 2, "seed": row}
        for row in range(6)
    ]  # fmt: skip
    file, rated, twice = (tmp_path / name for name in ("answers.jsonl", "rated.jsonl", "twice.jsonl"))
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    by_program = ["--judge", program.command, "--judge-kind", "program"]
    assert main(["rate", str(file), *by_program, "--dry-run", "-o", str(rated)]) == 0
    assert not rated.exists()
    assert "6 verdicts by the program" in capsys.readouterr().out
    assert main(["rate", str(file), *by_program, "-o", str(rated)]) == 0
    assert scores(read_answered(rated)) == [[1, 2], [3, 4], [5, 6]]
    with running(lambda body: "[[7]]" if "xxxx" in body["messages"][0]["content"] else "[[3]]") as endpoint:
        by_model = ["--judge", "big", "--endpoint", endpoint.url]
        assert main(["rate", str(rated), *by_model, "-o", str(twice)]) == 0
        calls = len(endpoint.bodies)
        assert main(["rate", str(rated), *by_model, "--dry-run", "-o", str(twice)]) == 0
        assert len(endpoint.bodies) == calls == 6
    assert "big: 0 calls (6 more are cached)" in capsys.readouterr().out
    report = json.loads((tmp_path / "twice.report.json").read_text())
    assert set(report["judges"]) == {program.command, "big"}
    assert report["judges"][program.command]["calls"] == 6
    answers = [answer for prompt in read_answered(twice) for answer in prompt.answers]
    assert [answer.columns["raw_rating/big"] for answer in answers] == [3, 3, 3, 7, 7, 7]
    assert [answer.columns["seed"] for answer in answers] == list(range(6))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "Give --judge"),
        (["--judge", "true", "--judge-kind", "program", "--judge-prompt", "p.txt"], "leave out --judge-prompt"),
        (["--judge", "true", "--judge-kind", "program", "--opponents", "3"], "only the mode pairwise has opponents"),
        (["--judge", "true", "--judge-kind", "program", "--key-variable", "K"], "no effect without --endpoint"),
        (["--judge", "true", "--judge-kind", "program", "--scale", "10", "1"], "lowest number first"),
        (["--judge", "true", "--judge-kind", "program", "--judge-temperature", "1"], "leave out --judge-temperature"),
    ],
)
def test_wrong_options_are_refused(tmp_path: Path, capsys: Any, words: list[str], said: str) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_text('{"instruction": "Hi?", "output": "a"}\n')
    assert main(["rate", str(file), *words, "-o", str(tmp_path / "out.jsonl")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()


def test_estimates_are_each_judges_own(program: ProgramJudge) -> None:
    judge = LanguageJudge(Fake(lambda asked: ""))
    found = estimates(answered(["a", "b", "cc"]), [program, judge], RatingSettings(mode="pairwise"))
    assert found["fake"] == "6 calls"
    assert found[program.name].startswith("6 verdicts")
