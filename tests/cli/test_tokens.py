"""`mixdpo tokens`: what is trained can be told without colours, and nothing in the data is taken for markup."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from mixdpo import load_pairs
from mixdpo.cli.main import main
from mixdpo.cli.token_lines import print_pair
from mixdpo.data.data_settings import TokenSettings
from mixdpo.data.token_view import pair_views
from tiny import byte_level_tokenizer

ROWS = [
    {
        "prompt": [{"role": "user", "content": "Name a river."}],
        "chosen": [
            {"role": "assistant", "content": "The Elbe."},
            {"role": "user", "content": "[red]more[/red] \x1b[31m"},
            {"role": "assistant", "content": "The Rhine."},
        ],
        "rejected": [{"role": "assistant", "content": "No."}],
    },
    {
        "prompt": [{"role": "user", "content": "What is 2+2?"}],
        "chosen": [{"role": "assistant", "content": "4", "reasoning_content": "Two and two."}],
        "rejected": [{"role": "assistant", "content": "5"}],
    },
]


@pytest.fixture
def data(tmp_path) -> Path:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.fixture
def model(tmp_path) -> Path:
    """A tokenizer, and no weights."""
    byte_level_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_the_margin_says_what_is_trained(capsys, data, model) -> None:
    assert main(["tokens", str(data), "--model", str(model), "--rows", "1"]) == 0
    out = capsys.readouterr().out
    assert (
        "  trained │ The Elbe.<|im_end|>\n"
        "untrained │ ⏎\n"
        "          │ <|im_start|>user⏎\n"
        "          │ [red]more[/red] \\x1b[31m<|im_end|>⏎\n"
        "          │ <|im_start|>assistant⏎\n"
        "  trained │ The Rhine.<|im_end|>\n" in out
    )
    assert "\x1b" not in out
    assert "row 2" not in out.split("pairs; mean")[0]
    assert "untrained_turns: 1" in out
    assert "warning: lost_thinking: 1" in out, "the counts are of all pairs"


def test_rows_settings_and_a_recipe(capsys, tmp_path, data, model) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"model: {{name_or_path: {model}}}\ndata: {{path: {data}}}\ntrain: {{max_length: 30}}\n")
    assert main(["tokens", "--config", str(recipe), "--row", "2"]) == 0
    shown = capsys.readouterr().out.split("pairs; mean")[0]
    assert "row 2: lost_thinking" in shown
    assert "row 1" not in shown
    assert main(["tokens", "--config", str(recipe), "--row", "1", "--train.assistant_only_loss", "false"]) == 0
    shown = capsys.readouterr().out.split("pairs; mean")[0]
    assert "tokens, by max_length" in shown
    assert "untrained" not in shown


def test_template_settings_reach_the_template(capsys, data, model) -> None:
    template = (model / "chat_template.jinja").read_text()
    (model / "chat_template.jinja").write_text("{{ mood if mood is defined }}" + template)
    told = ["--model.chat_template_kwargs", "{mood: cheerful}"]
    assert main(["tokens", str(data), "--model", str(model), *told]) == 0
    assert "prompt │ cheerful<|im_start|>user" in capsys.readouterr().out


def test_the_audit_reads_the_recipes_model_as_training_does(tmp_path, data, model) -> None:
    template = (model / "chat_template.jinja").read_text()
    (model / "chat_template.jinja").write_text("{{ mood if mood is defined }}" + template)
    recipe = tmp_path / "recipe.yaml"
    told = "chat_template_kwargs: {mood: cheerful}"
    recipe.write_text(f"model: {{name_or_path: no-such/model, {told}}}\ntrain: {{assistant_only_loss: false}}\n")
    report = tmp_path / "report"
    words = ["audit", str(data), "--config", str(recipe), "--tokenizer", str(model), "--output", str(report)]
    assert main(words) == 0
    page = (report / "report.html").read_text()
    assert '<span class="of-prompt">cheerful</span>' in page
    assert "of-untrained special" not in page
    findings = {one["name"]: one for one in json.loads((report / "report.json").read_text())["findings"]}
    assert findings["lost_thinking"]["pairs"] == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--row", "7"], "row 7"),
        (["--row", "1", "--rows", "2"], "--rows"),
        (["--rows", "0"], "--rows"),
        (["--train.max_length", "1"], "max_length"),
    ],
)
def test_what_is_refused(capsys, data, model, words, said) -> None:
    assert main(["tokens", str(data), "--model", str(model), *words]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert said in line


def test_an_output_that_lacks_the_characters_shows_their_codes(monkeypatch, data, model) -> None:
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding="cp1252", write_through=True))
    assert main(["tokens", str(data), "--model", str(model)]) == 0
    assert b"  trained \\u2502 The Elbe.<|im_end|>" in written.getvalue()


def test_pairs_that_are_all_dropped_are_shown_with_the_reason(capsys, data, model) -> None:
    (model / "chat_template.jinja").write_text("{{ raise_exception('No [red] roses.') }}")
    assert main(["tokens", str(data), "--model", str(model)]) == 2
    out, err = capsys.readouterr()
    assert "row 1: template_refused\ndropped, not trained: No [red] roses.\n" in out
    assert "all 2 pairs were dropped" in err


def test_without_a_model(capsys, data) -> None:
    assert main(["tokens", str(data)]) == 2
    assert "no model is given" in capsys.readouterr().err


def test_a_terminal_breaks_lines_beside_the_margin() -> None:
    long = [{**ROWS[1], "chosen": [{"role": "assistant", "content": "x" * 90}]}]
    (pair,) = pair_views(load_pairs(long), [0], byte_level_tokenizer(), TokenSettings())
    console = Console(width=60, force_terminal=True, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_pair(console, pair)
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 60
    assert [line for line in lines if "xx" in line] == [
        "  trained │ " + "x" * 48,
        "          │ " + "x" * 42 + "<|im_e",
    ], lines
