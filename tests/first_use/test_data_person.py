"""Whoever has a file of preferences and a question about it: how it is read, what is wrong, and one command."""

from __future__ import annotations

import csv
import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from mixdpo import AuditSettings, audit, load_pairs
from mixdpo.cli.main import main
from mixdpo.common.settings import parse_yaml
from mixdpo.data.data_settings import DataSettings
from mixdpo.data.load import read_pairs
from mixdpo.recipe.recipe_file import yaml_text
from preferences import clean_rows
from rules import ship
from snapshots import check_snapshot

QUICK = AuditSettings(near_duplicates=False)
SIDES = ("prompt", "chosen", "rejected")


@pytest.fixture(autouse=True)
def _terminal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    ship(monkeypatch, sft=30, smoothed=0, drop=10)


def write_lines(name: str, rows: Sequence[dict[str, Any]]) -> str:
    Path(name).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return name


def write_csv(name: str, header: Sequence[str], rows: Sequence[Sequence[Any]], **how: Any) -> str:
    encoding = how.pop("encoding", "utf-8")
    with open(name, "w", newline="", encoding=encoding) as stream:
        csv.writer(stream, **how).writerows([header, *rows])
    return name


def of_one_beginning(n: int = 30) -> list[dict[str, Any]]:
    """Pairs whose answers begin alike, so that a prompt could be guessed from them."""
    return [
        {**row, "chosen": f"Well, then: {row['chosen']}", "rejected": f"Well, then: {row['rejected']}"}
        for row in clean_rows(n)
    ]


# How a file is read


def test_headers_of_a_spreadsheet_are_read() -> None:
    rows = of_one_beginning()
    header = ("No", "Prompt", "Chosen", "Rejected", "Rating Chosen", "Rating Rejected")
    keys = (*SIDES, "score_chosen", "score_rejected")
    file = write_csv("excel.csv", header, [[n, *(row[key] for key in keys)] for n, row in enumerate(rows)])
    whole = load_pairs(file)
    partly = load_pairs(file, columns={"chosen": "Chosen", "rejected": "Rejected"})
    for pairs in (whole, partly):
        assert [pairs[side][:] for side in SIDES] == [[row[side] for row in rows] for side in SIDES]
        assert pairs["score_chosen"][:] == [row["score_chosen"] for row in rows]


@pytest.mark.parametrize(
    ("header", "mapping"),
    [
        (
            ("Prompt Text", "Score (good)", "Good answer", "Bad answer", "Score (bad)"),
            "{chosen: Good answer, rejected: Bad answer, prompt: Prompt Text, score_chosen: Score (good), "
            "score_rejected: Score (bad)}",
        ),
        (
            ("Question", "Answer: preferred", "Worse"),
            '{chosen: "Answer: preferred", rejected: Worse, prompt: Question}',
        ),
    ],
)
def test_a_refusal_has_one_mapping_that_is_complete(header, mapping, refused) -> None:
    rows = of_one_beginning(4)
    keys = ("prompt", "score_chosen", "chosen", "rejected", "score_rejected") if len(header) == 5 else SIDES
    file = write_csv("own.csv", header, [[row[key] for key in keys] for row in rows])
    refused(lambda: load_pairs(file), f"--data.columns '{mapping}'")
    assert main(["plan", file, "--plan", "dpo", "--data.columns", mapping]) == 0
    pairs = load_pairs(file, columns=parse_yaml(mapping))
    assert {key: pairs[key][:] for key in keys} == {key: [row[key] for row in rows] for key in keys}


@pytest.mark.parametrize(("name", "is_prompt"), [("User Prompt", True), ("question_text", True), ("prompt_id", False)])
def test_prompts_are_not_guessed_where_a_column_has_them(name, is_prompt, refused) -> None:
    file = write_csv("own.csv", (name, "chosen", "rejected"), [[row[s] for s in SIDES] for row in of_one_beginning(4)])
    if is_prompt:
        refused(lambda: load_pairs(file), f"--data.columns '{{prompt: {name}}}'")
    else:
        assert all(prompt.startswith("Well, then:") for prompt in load_pairs(file)["prompt"])


def test_a_german_spreadsheet_is_read_and_its_rows_are_the_files() -> None:
    rows = [[f"{row['prompt']}, größer", row["chosen"], row["rejected"]] for row in clean_rows(6)]
    rows[2][0] = " "
    rows[3][1] = "zwei\nZeilen, also eine Zeile mehr"
    rows[4][2] = rows[4][1]
    file = write_csv("german.csv", SIDES, rows, encoding="cp1252", delimiter=";")
    assert main(["audit", file, "--audit.near_duplicates", "false"]) == 0
    assert load_pairs(file)["prompt"][0].endswith(", größer")
    figures = json.loads(Path("report/report.json").read_text())
    assert {one["reason"]: one["first"] for one in figures["overview"]["loading"]["dropped"]} == {
        "empty_prompt": ["4"],
        "identical_completions": ["7"],
    }, "the header is row 1, and a cell of two lines is two"


def test_decimal_commas_of_a_spreadsheet_are_numbers() -> None:
    rows = [[*(row[side] for side in SIDES), f"{2 + n},5", f"-{n},125"] for n, row in enumerate(clean_rows(6))]
    file = write_csv("german.csv", (*SIDES, "score_chosen", "score_rejected"), rows, delimiter=";")
    pairs, report = read_pairs(DataSettings(path=file))
    assert pairs["score_chosen"][:] == [2.5 + n for n in range(6)]
    assert pairs["score_rejected"][:] == [-(n + 0.125) for n in range(6)]
    assert "decimal commas in score_chosen, score_rejected" in report.sources[0].notes[0]


@pytest.mark.parametrize(
    ("score", "is_read"), [(["1,5", "2,25"], True), (["1,500", "2,250"], False), (["1,5", "none"], False)]
)
def test_between_commas_three_digits_may_be_thousands(score, is_read, refused) -> None:
    rows = [[*(row[side] for side in SIDES), one, "0"] for row, one in zip(clean_rows(2), score, strict=True)]
    file = write_csv("own.csv", (*SIDES, "score_chosen", "score_rejected"), rows)
    if is_read:
        assert load_pairs(file)["score_chosen"][:] == [1.5, 2.25]
    else:
        refused(lambda: load_pairs(file), score[0])


@pytest.mark.parametrize(
    ("encoding", "text"),
    [("cp1251", "Привет, как дела"), ("koi8-r", "Привет, как дела"), ("cp1253", "Καλημέρα, τι κάνεις"),
     ("shift_jis", "データをテストする"), ("gbk", "今天天气很好"), ("euc-kr", "안녕하세요 어떻게")],
)  # fmt: skip
def test_what_is_not_western_is_not_read_as_such(encoding, text, refused) -> None:
    file = write_csv("own.csv", SIDES, [[f"{text}?", f"{text}!", "no"]] * 3, encoding=encoding)
    refused(lambda: load_pairs(file), "UTF-8")


@pytest.mark.parametrize("text", ["größer", "été, où naïveté créée", "«Él», “Ñandú”", "Þetta er það"])
def test_western_accents_are_cp1252(text) -> None:
    file = write_csv("own.csv", SIDES, [[text, "good", "bad"]], encoding="cp1252")
    assert load_pairs(file)["prompt"][:] == [text]


def test_an_unknown_separator_is_told(refused) -> None:
    file = write_csv("own.csv", SIDES, [[f"{row['prompt']}, please", row["chosen"], row["rejected"]]
                                        for row in clean_rows(3)], delimiter="^")  # fmt: skip
    refused(lambda: load_pairs(file), "semicolons")


def test_prompts_under_a_name_of_another_language_are_not_lost(refused) -> None:
    rows = [[n, row["prompt"], row["chosen"], row["rejected"], "web"] for n, row in enumerate(of_one_beginning())]
    file = write_csv("german.csv", ("Nr", "Frage", "Gut", "Schlecht", "Herkunft"), rows)
    refused(lambda: load_pairs(file), "Frage, Gut, Schlecht", "prompt: ...")
    columns = {"chosen": "Gut", "rejected": "Schlecht"}
    refused(lambda: load_pairs(file, columns=columns), "--data.columns '{prompt: Frage}'")
    assert load_pairs(file, columns={**columns, "prompt": "Frage"})["prompt"][:] == [row[1] for row in rows]


MAPPINGS: dict[str, tuple[dict[str, Any], str]] = {
    "opposites that look alike": (
        {"question": "What?", "win": "A tree.", "lose": "No."},
        "{chosen: win, rejected: lose, prompt: question}",
    ),
    "columns within others": (
        {"data": {"question": "What?", "answers": {"best": "A tree.", "worst": "No."}}},
        "{chosen: data.answers.best, rejected: data.answers.worst, prompt: data.question}",
    ),
    "numbers are no answers": (
        {"question": "What?", "good": "A tree.", "preferred": 1, "bad": "No."},
        "{chosen: good, rejected: bad, prompt: question}",
    ),
}


@pytest.mark.parametrize("name", MAPPINGS)
def test_a_mapping_that_is_offered_reads_the_pairs(name, refused) -> None:
    row, mapping = MAPPINGS[name]
    file = write_lines("own.jsonl", [row] * 2)
    refused(lambda: load_pairs(file), f"'{mapping}'")
    pair = load_pairs(file, columns=parse_yaml(mapping))[0]
    assert [pair[side] for side in SIDES] == ["What?", "A tree.", "No."]


def test_a_file_that_is_one_object_says_where_its_rows_are(refused) -> None:
    Path("wrapped.json").write_text(json.dumps({"data": clean_rows(3)}))
    refused(lambda: load_pairs("wrapped.json"), "jq .data FILE")


@pytest.mark.parametrize(
    ("header", "winners"),
    [
        (("Question", "Answer A", "Answer B", "Preferred"), ("A", "Answer B", "tie")),
        (("prompt", "output_1", "output_2", "choice"), ("first", "2", "both_bad")),
        (("instruction", "response_0", "response_1", "label"), ("0", "1", "equal")),
    ],
)
def test_two_answers_and_a_winner_of_any_names(header, winners, refused) -> None:
    rows = [["What?", f"A tree {n}.", "No.", winner] for n, winner in enumerate(winners)]
    pairs = load_pairs(write_csv("own.csv", header, rows))
    assert pairs["chosen"][:] == ["A tree 0.", "No."]
    refused(lambda: load_pairs(write_csv("odd.csv", header, [["What?", "A", "B", "7"]])), "names no winner")


def test_ranks_of_answers_are_scores_the_other_way_round() -> None:
    file = write_lines("own.jsonl", [{"prompt": "What?", "responses": ["No.", "A tree."], "rank": [2, 1]}])
    pair = load_pairs(file)[0]
    assert (pair["chosen"], pair["score_chosen"], pair["score_rejected"]) == ("A tree.", -1.0, -2.0)


USER, GOOD, BAD = "What is it?", "It is a tree.", "No."


def turns(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": USER}, {"role": "assistant", "content": text}]


LAYOUTS: dict[str, dict[str, Any]] = {
    "UltraFeedback": {
        "instruction": USER,
        "completions": [{"response": BAD, "overall_score": 2}, {"response": GOOD, "overall_score": 8}],
    },
    "Argilla": {"input": USER, "generations": [GOOD, BAD], "ratings": [5, 1]},
    "OpenAI": {
        "input": {"messages": turns("")[:1]},
        "preferred_output": turns(GOOD)[1:],
        "non_preferred_output": turns(BAD)[1:],
    },
    "Arena": {"conversation_a": turns(BAD), "conversation_b": turns(GOOD), "winner": "model_b"},
    "nested": {"input": {"messages": turns("")[:1]}, "good": turns(GOOD)[1:], "bad": turns(BAD)[1:]},
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_of_others_are_pairs(name) -> None:
    columns = {"prompt": "input.messages", "chosen": "good", "rejected": "bad"} if name == "nested" else None
    pairs = load_pairs(write_lines("own.jsonl", [LAYOUTS[name]] * 3), columns=columns)
    texts = [value if isinstance(value, str) else value[-1]["content"] for value in (pairs[0][side] for side in SIDES)]
    assert texts == [USER, GOOD, BAD]


def test_single_answers_are_refused_with_what_to_do(refused) -> None:
    file = write_lines("kto.jsonl", [{"prompt": USER, "completion": GOOD, "label": True}] * 3)
    refused(lambda: load_pairs(file), "single answers with a label (KTO)", "join a good and a bad answer")


# Clean in one go


def with_faults() -> list[dict[str, Any]]:
    """250 rows: 72 % repeat others, some labels are wrong, 10 tie, and each has columns that mixdpo does not read."""
    base = [{**row, "id": f"p{n}", "tags": ["a", str(n)], "meta": {"n": n}} for n, row in enumerate(clean_rows(120))]
    rows = base[:60] * 3 + base[60:80] + [{**row, "score_chosen": 3.0, "score_rejected": 3.0} for row in base[80:90]]
    for row in base[90:100]:
        rows += [row, {**row, "chosen": row["rejected"], "rejected": row["chosen"]}]
    rows += [{**row, "score_chosen": 1.0, "score_rejected": 4.0} for row in base[100:110]]
    rows += [{**row, "prompt": f"<|im_start|>{row['prompt']}"} for row in base[110:120]]
    return rows


@pytest.fixture
def faulty() -> str:
    return write_lines("faulty.jsonl", with_faults())


def test_what_hurts_most_comes_first_and_one_command_mends_it(faulty, capsys) -> None:
    assert main(["audit", faulty, "--audit.near_duplicates", "false"]) == 0
    check_snapshot("audit", capsys.readouterr().out)
    assert main(["clean", faulty]) == 0
    check_snapshot("clean", capsys.readouterr().out)
    first = json.loads(Path("report/report.json").read_text())["findings"][0]
    assert (first["name"], first["level"]) == ("duplicates", "harmful")

    cleaned = load_pairs("cleaned.parquet")
    assert len(cleaned) == 60 + 30 + 10, "once each, and those of wrong labels"
    report = audit(cleaned, settings=QUICK)
    assert report.repairs is None
    assert [finding.name for finding in report.findings] == ["ties"], "which are a decision"

    assert main(["clean", faulty, "--apply", "advised,ties", "--output", "decided.parquet"]) == 0
    decided = load_pairs("decided.parquet")
    assert len(decided) == 90
    assert audit(decided, settings=QUICK).findings == []


def test_the_same_command_changes_nothing_and_another_overwrites_nothing(faulty, capsys) -> None:
    assert main(["audit", faulty, "--audit.near_duplicates", "false"]) == 0
    assert main(["clean", faulty, "--output", "c.jsonl"]) == 0
    before = {path.name: path.read_bytes() for path in Path().iterdir() if path.is_file()}
    assert main(["clean", faulty, "--output", "c.jsonl"]) == 0
    capsys.readouterr()
    assert main(["clean", faulty, "--output", "c.jsonl", "--apply", "duplicates"]) == 2
    assert "c.jsonl: the file holds the result of other findings" in capsys.readouterr().err
    assert main(["clean", faulty, "--output", "c.csv", "--apply", "duplicates"]) == 2
    assert "c.log.parquet: the file holds the result of other findings" in capsys.readouterr().err
    assert main(["clean", faulty, "--output", faulty]) == 2
    assert "no faulty.log.parquet says that `mixdpo clean` wrote it" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in Path().iterdir() if path.is_file()} == before


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".csv", ".parquet"])
def test_cleaned_and_scored_pairs_keep_all_columns_in_every_format(ending, faulty) -> None:
    assert main(["audit", faulty, "--audit.near_duplicates", "false"]) == 0
    assert main(["clean", faulty, "--output", f"cleaned{ending}"]) == 0
    assert main(["score", f"cleaned{ending}", "--metric", "rating", "--output", f"scored{ending}"]) == 0
    read: dict[str, Callable[[str], pl.DataFrame]] = {
        ".jsonl": pl.read_ndjson, ".json": pl.read_json, ".csv": pl.read_csv, ".parquet": pl.read_parquet,
    }  # fmt: skip
    table = read[ending](f"scored{ending}")
    assert {"id", "tags", "meta", "margin/rating"} <= set(table.columns)
    assert table["id"].to_list() == [f"p{n}" for n in range(90)] + [f"p{n}" for n in range(100, 110)]


def test_ratings_that_tie_get_a_threshold_to_copy() -> None:
    rows = clean_rows(60)
    for n, row in enumerate(rows):
        row |= {"score_chosen": 5.219 if n % 3 else 5.0, "score_rejected": 5.0}
    report = audit(load_pairs(write_lines("ties.jsonl", rows)), settings=QUICK)
    (ties,) = [finding for finding in report.findings if finding.name == "ties"]
    assert ties.line == "`plan.threshold: 0.21` (ties go to SFT)"
    assert report.figures["plan"]["threshold"] == [0.0, 0.21]
    assert report.figures["plan"]["sft_pairs"] == [0, 20]
    assert not ties.advised, "ties are a decision"


# What is counted


@pytest.mark.parametrize(
    ("chosen", "rejected", "words"),
    [
        ("山里的天气变化很快" * 20, "山里的天气" * 8, 180),
        ("ภาษาไทยไม่มีช่องว่าง" * 10, "ภาษาไทย" * 3, 160),
        ("word " * 40, "word " * 9, 40),
    ],
)
def test_words_of_scripts_without_spaces_are_counted(chosen, rejected, words) -> None:
    rows = [{"prompt": f"{n}", "chosen": chosen, "rejected": rejected} for n in range(40)]
    report = audit(load_pairs(write_lines("own.jsonl", rows)), settings=QUICK)
    assert report.figures["overview"]["words"]["chosen"]["p50"] == words
    assert "length_bias" in {finding.name for finding in report.findings}


def test_long_answers_are_found_without_a_tokenizer() -> None:
    rows = clean_rows(60)
    for row in rows[::6]:
        row["chosen"] = "x" * 50_000 if row is rows[0] else row["chosen"] + " word" * 10_000
    report = audit(load_pairs(write_lines("long.jsonl", rows)), settings=QUICK)
    assert np.flatnonzero(report.flags["too_long"] >= 0).tolist() == list(range(0, 60, 6))
    (found,) = [finding for finding in report.findings if finding.name == "too_long"]
    assert found.estimate["value"] == 1 / 6
    assert "--tokenizer MODEL" in found.fix


def test_a_row_is_the_same_everywhere(capsys) -> None:
    rows = [{**row, "prompt": None} if n % 7 == 3 else row for n, row in enumerate(clean_rows(50))]
    rows[40]["rejected"] = rows[40]["chosen"].upper()
    file = write_lines("nulls.jsonl", rows)
    assert main(["audit", file, "--audit.near_duplicates", "false"]) == 0
    assert "(row 4, 11, 18, 25, 32, ...)" in capsys.readouterr().out
    flagged = pl.read_parquet("report/flagged.parquet").filter(pl.col("finding") == "same_answers")
    assert flagged["row"].to_list() == [41]
    assert '"row":41,"of":["same_answers"' in Path("report/report.html").read_text(encoding="utf-8")
    assert main(["clean", file]) == 0
    log = pl.read_parquet("cleaned.log.parquet").filter(pl.col("action") == "dropped")
    assert log["row"].to_list() == [41]
    assert main(["plan", "cleaned.parquet"]) == 0
    assert pl.read_parquet("plan.parquet")["pair_id"].to_list() == load_pairs("cleaned.parquet")["pair_id"][:]


def test_where_nothing_is_advised_clean_says_so(capsys) -> None:
    file = write_lines("own.jsonl", clean_rows(30))
    assert main(["audit", file, "--audit.near_duplicates", "false"]) == 0
    assert main(["clean", file]) == 2
    assert "the report advises nothing to clean; use the data as it is" in capsys.readouterr().err
    assert not Path("cleaned.parquet").exists()


def test_commands_to_copy_are_one_line(capsys) -> None:
    names = ("Eine lange Frage an das Modell", "Die gute Antwort darauf", "Die schlechte Antwort darauf, größer")
    file = write_csv("own.csv", names, [[row[side] for side in SIDES] for row in clean_rows(30)])
    columns = yaml_text(dict(zip(SIDES, names, strict=True)))
    assert main(["audit", file, "--audit.near_duplicates", "false", "--data.columns", columns]) == 0
    plan, train = (line for line in capsys.readouterr().out.splitlines() if line.startswith("next: "))
    for command in (plan, train):
        assert parse_yaml(shlex.split(command)[4 + 1]) == dict(zip(SIDES, names, strict=True))
