"""Whoever has two models and must say which is better: one command, one sentence, and what it cannot say."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from loopback import Endpoint, running
from mixdpo.cli.main import main
from mixdpo.evaluation.compare.collect import collect
from snapshots import check_snapshot

CAREFUL = """import json, sys
for line in sys.stdin:
    case = json.loads(line)
    good_a, good_b = ("good" in case[f"answer_{side}"] for side in "ab")
    print("A>B" if good_a > good_b else "B>A" if good_b > good_a else "A=B")
"""
LONGER = """import json, sys
for line in sys.stdin:
    case = json.loads(line)
    a, b = len(case["answer_a"]), len(case["answer_b"])
    print("A>B" if a > b else "B>A" if a < b else "A=B")
"""


@pytest.fixture(autouse=True)
def _terminal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Compares what was printed with a snapshot; the judge's command and times differ between machines."""

    def compare(name: str) -> None:
        out = re.sub(r"\S*python\S* (\w+)\.py", r"python \1.py", capsys.readouterr().out)
        check_snapshot(name, out)

    return compare


@pytest.fixture
def server() -> Iterator[Endpoint]:
    with running(Endpoint(lambda body: "[[C]]")) as server:
        yield server


def answers(name: str, texts: list[str], **more: object) -> Path:
    rows = [
        {"instruction": f"Question {n}?", "output": text, "generator": name, **more} for n, text in enumerate(texts)
    ]
    path = Path(f"{name}.jsonl")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def program(name: str, text: str) -> list[str]:
    Path(f"{name}.py").write_text(text)
    return ["--judge", shlex.join([sys.executable, f"{name}.py"]), "--judge-kind", "program"]


def of_lengths(word: str, count: int, first: int = 0) -> list[str]:
    return [f"{word} {'x' * (5 + 7 * n % 13)}" for n in range(first, first + count)]


def test_is_it_better_in_one_command(shown) -> None:
    answers("base", of_lengths("fine", 60), finished=True)
    better = of_lengths("good", 34, 3) + of_lengths("fine", 26, 37)
    answers("tuned", better, finished=True)
    assert main(["versus", "base.jsonl", "tuned.jsonl", *program("careful", CAREFUL)]) == 0
    shown("versus")
    result = json.loads(Path("versus/versus.json").read_text())
    assert result["sentence"].startswith("tuned beats base on 78 % of 60 prompts (95 % interval ")
    assert result["models"]["tuned"]["n_draws"] == 26, "answers alike are ties, which count half"
    assert Path("versus/comparison.html").is_file()
    (pairwise,) = collect(["versus/versus.json"])
    assert pairwise.baseline == "base"


def test_a_judge_that_follows_length_and_answers_that_are_cut_are_told(shown) -> None:
    answers("base", ["x" * 5] * 30)
    answers("own", ["y" * (6 + n) for n in range(30)], finished=False)
    assert main(["versus", "base.jsonl", "own.jsonl", *program("longer", LONGER)]) == 0
    shown("versus_length")


def test_too_few_prompts_are_told_before_a_judge_is_paid(capsys) -> None:
    answers("base", ["a"] * 20)
    answers("own", ["b"] * 20)
    assert main(["versus", "base.jsonl", "own.jsonl", *program("longer", LONGER), "--dry-run", "--limit", "5"]) == 0
    said = capsys.readouterr().out
    assert "10 verdicts by" in said
    assert "5 prompts: too few to show any difference" in said
    assert not Path("versus").exists()
    assert main(["versus", "base.jsonl", "own.jsonl", *program("longer", LONGER), "--dry-run"]) == 0
    assert "20 prompts: 80 % power needs a win rate of 80 %" in capsys.readouterr().out


def test_models_an_adapter_and_an_endpoint_answer_first(tokenizer, server, capsys) -> None:
    from peft import LoraConfig, get_peft_model

    from tiny import tiny_llama

    model = tiny_llama(vocab_size=len(tokenizer))
    for name in ("start", "runs/lora"):
        tokenizer.save_pretrained(f"{name}/model")
    model.save_pretrained("start/model")
    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    adapted.peft_config["default"].base_model_name_or_path = str(Path("start/model").resolve())
    adapted.save_pretrained("runs/lora/model")
    Path("prompts.jsonl").write_text('{"prompt": "Tea?"}\n{"prompt": "Dogs?"}\n{"prompt": "Cats?"}\n')
    server.answer = lambda body: "Well. It says [[B]].\n[[A]]" if "<answer A>" in str(body) else "A served answer."
    judge = ["--judge", "gpt", "--judge-endpoint", server.url, "--prompts", "prompts.jsonl"]
    words = ["--max-new-tokens", "4", "--batch-size", "2", *judge]
    assert main(["versus", "start/model", "runs/lora", *words, "-o", "local"]) == 0
    said = capsys.readouterr().out
    assert "lora wins against start on 50 % of 3 prompts" in said
    assert "note: 6 replies of the judge quote another verdict than their own" in said
    assert "the judge is unsure" in said or "follows position" in said
    rows = [json.loads(line) for line in Path("local/b.lora.answers.jsonl").read_text().splitlines()]
    assert [row["instruction"] for row in rows] == ["Tea?", "Dogs?", "Cats?"]
    assert main(["versus", "start/model", f"served@{server.url}", *words, "-o", "mixed"]) == 0
    mixed = json.loads(Path("mixed/versus.json").read_text())
    assert mixed["models"].keys() == {"served"}
    assert mixed["settings"]["baseline"] == "start"
    asked = len(server.bodies)
    assert main(["versus", "start/model", f"served@{server.url}", *words, "-o", "mixed"]) == 0
    assert len(server.bodies) == asked, "the same command makes no call again"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["base.jsonl", "no.jsonl"], "no.jsonl: no such file"),
        (["base.jsonl", "org/model"], "nothing says what org/model is to answer; give the prompts with --prompts"),
        (["base.jsonl", "base.jsonl", "--temperature", "1"], "--temperature: no effect on files of answers"),
        (["base.jsonl", "org/model", "--timeout", "1"], "--timeout: no effect without a MODEL@URL"),
        (["base.jsonl", "base.jsonl"], "two models are called base; tell them apart: NAME=MODEL"),
    ],
)
def test_what_versus_cannot_do_is_one_line(words, said, capsys) -> None:
    answers("base", ["a", "b"])
    assert main(["versus", *words, *program("longer", LONGER)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1


def test_models_can_stand_where_eval_takes_answers(tokenizer, capsys) -> None:
    """`--model` is a model in every command, and in some its answers will do."""
    from tiny import tiny_llama

    tiny_llama(vocab_size=len(tokenizer)).save_pretrained("start")
    tokenizer.save_pretrained("start")
    base = answers("base", ["a" * 30, "b", "c"])
    short = ["--max-new-tokens", "4"]
    words = ["--model", "start", "--baseline", str(base), *short, *program("longer", LONGER), "-o", "pairs.json"]
    assert main(["eval", "pairwise", *words, "--limit", "2", "--dry-run"]) == 0
    assert "answers of start: 2 answers" in capsys.readouterr().out
    assert main(["eval", "pairwise", *words, "--limit", "2"]) == 0
    assert Path("pairs.start.answers.jsonl").is_file()
    assert json.loads(Path("pairs.json").read_text())["models"]["start"]["n_prompts"] == 2
    capsys.readouterr()
    assert main(["eval", "grade", "--model", "start", *program("longer", LONGER), "-o", "grades.json"]) == 2
    assert "start is a model, and nothing says what it is to answer; give the prompts with --questions" in (
        capsys.readouterr().err
    )


def test_eval_names_the_baseline_and_says_differences_first(shown) -> None:
    answers("base", of_lengths("fine", 24))
    for name, good in (("one", 20), ("a-model-with-a-name-that-is-far-too-long-for-a-terminal-of-80-columns", 12)):
        answers(name, of_lengths("good", good, 3) + of_lengths("fine", 24 - good, 3 + good))
    models = [
        word for path in sorted(Path().glob("*.jsonl")) if path.stem != "base" for word in ("--model", str(path))
    ]
    words = [*models, "--baseline", "base.jsonl", *program("careful", CAREFUL), "--output", "pairs.json"]
    assert main(["eval", "pairwise", *words]) == 0
    shown("eval_pairwise")
    assert main(["compare", "pairs.json", "--output", "compared"]) == 0
    shown("compare")


def test_compare_says_that_answers_are_judged_first(capsys) -> None:
    answers("own", ["a", "b"])
    assert main(["compare", "own.jsonl", "own.jsonl"]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert "own.jsonl: answers or verdicts, and no result; judge answers first: mixdpo versus" in error


def games(path: str, labels: dict[str, list[str]]) -> None:
    rows = [
        {"model": model, "id": str(n), "game1": label, "game2": {"B>A": "A>B", "A>B": "B>A"}.get(label, label)}
        for model, own in labels.items()
        for n, label in enumerate(own)
    ]
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_p_values_are_called_what_they_are(capsys) -> None:
    games("right.jsonl", {"one": ["A>B"] * 22, "two": ["B>A"] * 19 + ["A>B"] * 3})
    assert main(["eval", "pairwise", "--verdicts", "right.jsonl", "--output", "right.json"]) == 0
    result = json.loads(Path("right.json").read_text())
    (difference,) = result["differences"]
    assert (difference["test"], round(difference["p_value"], 6)) == ("exact sign test", 4e-06)
    assert result["models"]["two"]["p_value"] == pytest.approx(0.000855, abs=1e-6)
    assert main(["compare", "right.json", "--output", "compared"]) == 0
    page = Path("compared/comparison.html").read_text()
    assert "intervals: paired bootstrap over prompts; p: exact sign test, two-sided" in page
    assert "corrected" not in page.partition("<main>")[2].partition("</main>")[0], "there is one difference"


def test_models_whose_verdicts_could_not_be_read_are_not_ranked(shown, capsys) -> None:
    def rated(model: str, ratings: list[str]) -> list[dict]:
        return [
            {"model": model, "question_id": 81 + n // 2, "turn": 1 + n % 2, "judgment": text}
            for n, text in enumerate(ratings)
        ]

    good, fair = ([f"Rating: [[{6 + shift + n % 3}]]" for n in range(20)] for shift in (1, 0))
    fair[0] = "Rating: [[9]]"
    rows = [
        *rated("camillo_dataset_oast_top1_ft_ehartforddolphin_23122", good),
        *rated("mistral-7b_dolphin_orca_labonne_dpo", fair),
        *rated("granite-7b-lab", ["Rating: [[10]]"] * 5 + ["I cannot say."] * 15),
        *rated("silent", ["I cannot say."] * 20),
    ]
    Path("mt.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["eval", "mt-bench", "--verdicts", "mt.jsonl", "--output", "mt.json"]) == 0
    shown("eval_mt_bench")
    (found,) = collect(["mt.json"])
    assert list(found.models)[-1] == "granite-7b-lab"
    assert all("granite-7b-lab" not in (one.first, one.second) for one in found.differences["average"])
    assert found.notes[0] == "granite-7b-lab is not ranked: 15 of 20 verdicts on it could not be read"


def test_without_the_hub_the_way_out_is_named(capsys, monkeypatch) -> None:
    rows = [{"model": "own", "preference": 1.4, "instruction_index": n, "len_1": 5, "len_2": 6} for n in range(3)]
    Path("al.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["eval", "alpaca-eval", "--verdicts", "al.jsonl", "--output", "al.json"]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.endswith("or give a copy with --gamed FILE, or leave length control out with --no-length-control")
    words = ["--verdicts", "al.jsonl", "--no-length-control", "--output", "al.json"]
    assert main(["eval", "alpaca-eval", *words]) == 0
    assert "AlpacaEval 2, win rate against gpt4_1106_preview" in capsys.readouterr().out


def test_intervals_are_spelled_alike(capsys) -> None:
    rows = [{"model": "own", "question_id": str(n), "game1": "A>B", "game2": "A>B"} for n in range(3)]
    Path("ah.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["eval", "arena-hard", "--verdicts", "ah.jsonl", "--output", "ah.json"]) == 0
    said = capsys.readouterr().out
    assert "95 % interval" in said
    assert "95%" not in said
    assert "Arena-Hard v0.1, win rate against gpt-4-0314" in said


def test_rows_given_twice_are_refused(capsys) -> None:
    games("one.jsonl", {"own": ["A>B", "B>A"]})
    Path("twice.jsonl").write_text(Path("one.jsonl").read_text() * 2)
    for bench, rename in (("pairwise", "id"), ("arena-hard", "question_id")):
        Path("twice.jsonl").write_text(Path("one.jsonl").read_text().replace('"id"', f'"{rename}"') * 2)
        assert main(["eval", bench, "--verdicts", "twice.jsonl", "--output", "twice.json"]) == 2
        assert "a second verdict" in capsys.readouterr().err


def test_the_page_names_the_baseline_and_says_verdicts_in_words() -> None:
    answers("base", of_lengths("fine", 12))
    answers("own", of_lengths("good", 8, 3) + of_lengths("fine", 4))
    words = ["--model", "own.jsonl", "--baseline", "base.jsonl", *program("careful", CAREFUL), "-o", "pairs.json"]
    assert main(["eval", "pairwise", *words]) == 0
    rows = [{"model": "own", "preference": 1.4, "instruction_index": n, "len_1": 5, "len_2": 6} for n in range(30)]
    Path("al.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["--verdicts", "al.jsonl", "--no-length-control", "--output", "al.json"]
    assert main(["eval", "alpaca-eval", *words]) == 0
    assert main(["compare", "pairs.json", "al.json", "--output", "compared"]) == 0
    page = Path("compared/comparison.html").read_text()
    shown, data = page.split('<script type="application/json" id="data">')
    assert "by win rate against <b>base</b>" in shown
    assert "the line is 50, as good as base" in shown
    assert re.search(r'class="whisker plain even" style="[^"]*--even:', shown)
    assert "own beats base on" in shown
    read = json.loads(data.partition("</script>")[0])
    assert [one["name"] for one in read] == ["pairwise"], "of scores alone there is nothing to read"
    assert "These results hold no answers to read" in shown
    assert read[0]["prompts"][0]["verdicts"][0] == (
        "baseline shown first, as A: own is better\n\nown shown first, as A: own is better"
    )
    assert "game 1" not in data


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.slow
def test_nothing_of_the_page_is_cut(browser, width) -> None:
    names = ["accuracy", "reward_margin", "displacement_chosen", "displacement_rejected", "chosen_fell",
             "logp_accuracy", "per_token_accuracy"]  # fmt: skip
    record = dict.fromkeys(names, 12.34) | {f"{name}_interval": [-10.25, 20.5] for name in names}
    models = {f"a-model-of-a-longer-name-{n}": record for n in range(2)}
    Path("held.json").write_text(json.dumps({"benchmark": "preferences", "models": models}))
    games("games.jsonl", {"one": ["B>A"] * 22, "two": ["B>A"] * 15 + ["A>B"] * 7})
    assert main(["eval", "pairwise", "--verdicts", "games.jsonl", "--output", "right.json"]) == 0
    assert main(["compare", "held.json", "right.json", "--output", "compared"]) == 0
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto(Path("compared/comparison.html").resolve().as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == width
    cut = "[...document.querySelectorAll('.card')].filter(one => one.scrollWidth > one.clientWidth + 1).length"
    assert page.evaluate(cut) == 0
    assert page.locator("td.num", has_text="[−10.25, 20.50]").first.is_visible()
