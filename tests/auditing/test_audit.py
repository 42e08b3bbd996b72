"""Planted faults are found, with the recall and precision written here; clean data raise no alarm; clean applies."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from datasets import Dataset

from mixdpo import AuditSettings, audit, load_pairs, score
from mixdpo.auditing.clean import clean, save_cleaned
from mixdpo.auditing.leakage import read_evaluation_prompts
from mixdpo.auditing.texts import text_batches
from mixdpo.cli.main import main
from preferences import clean_rows, loaded, one_word_changed, sentence


def rows_of(report, name: str) -> set[int]:
    return set(np.flatnonzero(report.flags[name] >= 0).tolist())


@pytest.fixture
def planted(tmp_path) -> tuple[Dataset, dict[str, set[int]], Path]:
    """Pairs with faults of every kind, the rows of each, and an evaluation set."""
    rng = np.random.default_rng(11)
    rows = clean_rows(400, seed=1)
    faults: dict[str, set[int]] = {}

    def plant(name: str, new: list[dict], partners: tuple[int, ...] = ()) -> None:
        faults.setdefault(name, set()).update(range(len(rows), len(rows) + len(new)), partners)
        rows.extend(new)

    fresh = iter(clean_rows(300, seed=2))
    for i in range(20):
        plant("duplicates", [{**rows[i], "prompt": rows[i]["prompt"].upper() + " "}], (i,))
    for i in range(20, 60):
        # One word of 70 changed leaves a similarity of 0.92; of 30, it would be 0.81 and a matter of chance.
        rows[i] |= {side: sentence(rng, 70) for side in ("chosen", "rejected")}
        changed = {side: one_word_changed(rows[i][side], rng) for side in ("chosen", "rejected")}
        plant("near_pairs", [{**rows[i], **changed}], (i,))
    for i in range(60, 75):
        plant("opposite", [{**rows[i], "chosen": rows[i]["rejected"], "rejected": rows[i]["chosen"]}], (i,))
    for _ in range(8):
        base, a, b, c = next(fresh), *(sentence(rng, 40) for _ in range(3))
        plant("cycles", [{**base, "chosen": x, "rejected": y} for x, y in ((a, b), (b, c), (c, a))])
    for _ in range(12):
        base = next(fresh)
        plant("same_answers", [{**base, "rejected": base["chosen"].title()}])
    for _ in range(12):
        text = sentence(rng, 70)
        plant("near_answers", [{**next(fresh), "chosen": text, "rejected": one_word_changed(text, rng)}])
    for text in ("<s>", "<|im_start|>", "</s>", "<|eot_id|>", "[INST]") * 3:
        plant("special", [{**(base := next(fresh)), "prompt": text + base["prompt"]}])
    for _ in range(6):
        plant("broken", [{**(base := next(fresh)), "chosen": base["chosen"] + " caf\ufffd"}])
    for _ in range(25):
        plant("contradicted", [{**next(fresh), "score_chosen": 1.0, "score_rejected": 3.0}])
    for _ in range(30):
        plant("ties", [{**next(fresh), "score_chosen": 2.0, "score_rejected": 2.0}])
    evaluation = tmp_path / "evaluation.jsonl"
    leaked = [next(fresh) for _ in range(15)]
    others = [sentence(rng, 20) for _ in range(50)]
    lines = [json.dumps({"prompt": text}) for text in [*(row["prompt"] for row in leaked), *others]]
    evaluation.write_text("\n".join(lines) + "\n")
    plant("leaked", [{**row, "prompt": f"Please: {row['prompt']} Thanks"} for row in leaked])
    return loaded(tmp_path, rows), faults, evaluation


def test_clean_data_raise_no_alarm(tmp_path, tokenizer) -> None:
    evaluation = tmp_path / "evaluation.jsonl"
    evaluation.write_text("".join(json.dumps({"question": row["prompt"]}) + "\n" for row in clean_rows(50, seed=9)))
    settings = AuditSettings(max_length=4096, token_pairs=100)
    report = audit(loaded(tmp_path, clean_rows()), tokenizer=tokenizer, against=[str(evaluation)], settings=settings)
    assert report.findings == []
    assert not len(report.flagged())


def test_planted_faults_are_found(planted) -> None:
    pairs, faults, evaluation = planted
    report = audit(pairs, against=[str(evaluation)])
    for name, expected in faults.items():
        found = rows_of(report, name)
        recall, precision = len(found & expected) / len(expected), len(found & expected) / max(1, len(found))
        # Near-duplicates are found by sampled hashes; everything else exactly.
        least = 0.95 if name in ("near_pairs", "near_answers") else 1.0
        assert recall >= least, name
        assert precision >= least, name
    main, small = ([f for f in report.findings if f.small is is_small] for is_small in (False, True))
    assert len(main) + bool(small) <= 10
    assert report.findings == main + small
    for part in (main, small):
        assert part == sorted(part, key=lambda f: (["harmful", "doubtful", "notable"].index(f.level), -f.pairs))


def test_same_seed_same_report(planted) -> None:
    pairs, _, evaluation = planted
    first, second = (audit(pairs, against=[str(evaluation)]) for _ in range(2))
    assert first.to_dict() == second.to_dict()
    assert first.examples == second.examples


def test_noise_of_two_metrics_and_the_doubtful_rows(tmp_path) -> None:
    rng = np.random.default_rng(2)
    rows = clean_rows(1500)
    wrong = rng.random(1500) < 0.1
    for row, is_wrong in zip(rows, wrong, strict=True):
        for name in ("first", "second"):
            row[f"margin/{name}"] = float(
                (-1 if is_wrong else 1) * (1 if rng.random() > 0.05 else -1) * rng.uniform(0.1, 2)
            )
        del row["score_chosen"], row["score_rejected"]
    report = audit(loaded(tmp_path, rows), settings=AuditSettings(near_duplicates=False))
    error = report.figures["noise"]["estimate"][0]["error"]
    assert error["low"] < 0.1 < error["high"]
    found = rows_of(report, "mislabelled")
    expected = set(np.flatnonzero(wrong).tolist())
    assert len(found & expected) / len(expected) > 0.85, "both metrics are right for 90 % of the wrong labels"
    assert len(found & expected) / len(found) > 0.9
    assert "label_noise" in {finding.name for finding in report.findings}


def test_what_says_how_to_train_is_described(tmp_path, text_rows) -> None:
    told = [{"weight/own": 0, "label_probability": 0.5, "tie": 1}, {"weight/own": 3, "label_probability": 1, "tie": 0}]
    rows = [{**row, **more} for row, more in zip(text_rows, [*told, told[0]], strict=True)]
    report = audit(loaded(tmp_path, rows))
    found = {name: (of["mean"], of["zero"]) for name, of in report.figures["overview"]["training"].items()}
    assert found == {"weight/own": (1, 2), "label_probability": (2 / 3, 0), "tie": (2 / 3, 1)}
    report.save(tmp_path / "report")
    page = (tmp_path / "report" / "report.html").read_text()
    assert all(f"<td>{name}</td>" in page for name in found)


def test_messages_turns_and_tokens(tmp_path, chat_rows, tokenizer) -> None:
    rows = chat_rows * 3
    odd = [{"role": "user", "content": "a"}, {"role": "assistant", "content": " "}, {"role": "user", "content": "b"}]
    rows = [*rows, {**rows[0], "prompt": odd}]
    report = audit(loaded(tmp_path, rows), tokenizer=tokenizer, settings=AuditSettings(max_length=10))
    assert rows_of(report, "bad_turns") == {9}
    assert report.figures["overview"]["turns"] == [{"name": "1", "pairs": 9}, {"name": "3", "pairs": 1}]
    tokens = report.figures["tokens"]
    ids = [tokenizer.apply_chat_template(r["prompt"] + r["chosen"], return_dict=False) for r in rows]
    alone = [tokenizer.apply_chat_template(r["prompt"] + r["rejected"], return_dict=False) for r in rows]
    longest = [max(len(a), len(b)) for a, b in zip(ids, alone, strict=True)]
    assert tokens["lengths"]["total"]["max"] == max(longest)
    assert rows_of(report, "too_long") == {i for i, length in enumerate(longest) if length > 10}
    assert tokens["no_bos"]["value"] == 0


def test_a_second_bos_is_counted(tmp_path, text_rows, tokenizer) -> None:
    text_rows[1]["prompt"] = "Well. <|im_start|>" + text_rows[1]["prompt"]
    bare = tokenizer.__class__(tokenizer_object=tokenizer.backend_tokenizer, **tokenizer.special_tokens_map)
    bare.chat_template = None
    report = audit(loaded(tmp_path, text_rows), tokenizer=bare)
    assert rows_of(report, "special") == {1}
    assert report.figures["tokens"]["no_bos"]["value"] == pytest.approx(2 / 3), "this tokenizer adds none by itself"


def test_clean_applies_what_is_asked_and_logs_every_row(tmp_path, planted) -> None:
    pairs, faults, _ = planted
    audit(pairs).save(tmp_path / "report")
    left, log = clean(pairs, tmp_path / "report", ["duplicates", "opposite", "contradicted"])
    assert len(left) == len(pairs) - 20 - len(faults["opposite"])
    assert log["row"].to_list() == list(range(1, len(pairs) + 1))
    flipped = log.filter(pl.col("action") == "flipped")
    assert {row - 1 for row in flipped["row"]} == faults["contradicted"]
    for row, new_row in flipped.select("row", "new_row").iter_rows():
        assert left[new_row - 1]["chosen"] == pairs[row - 1]["rejected"]
        assert left[new_row - 1]["score_chosen"] == pairs[row - 1]["score_rejected"]
    kept = log.filter(pl.col("action") == "kept")
    assert [left[i - 1]["pair_id"] for i in kept["new_row"]] == kept["pair_id"].to_list()
    save_cleaned(left, log, tmp_path / "cleaned.parquet")
    again = load_pairs(str(tmp_path / "cleaned.parquet"))
    assert again["pair_id"][:] == left["pair_id"][:], "ids are those of the content, flipped pairs' too"
    assert not {"duplicates", "opposite", "contradicted"} & {finding.name for finding in audit(again).findings}


def chat(system: str, user: str, chosen: dict, rejected: dict) -> dict:
    prompt = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    return {
        "prompt": prompt, "chosen": [{"role": "assistant", **chosen}], "rejected": [{"role": "assistant", **rejected}],
    }  # fmt: skip


def called(place: str) -> dict:
    return {"content": "", "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": place}}]}


def test_tool_calls_are_part_of_an_answer(tmp_path) -> None:
    """All prompts are alike, which polars could not read from JSON columns."""
    rows = [chat("Be brief.", "Rain?", called("Paris"), called("Rome")) for _ in range(4)]
    rows += [chat("Be brief.", "Rain?", called("Paris"), called("Paris ")) for _ in range(1)]
    path = tmp_path / "tools.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    pairs = load_pairs(str(path))
    report = audit(pairs, settings=AuditSettings(near_duplicates=False))
    assert report.figures["duplicates"]["same_answers"] == 0
    assert report.figures["duplicates"]["duplicates"] == {"pairs": 4, "beyond_first": 3}
    assert score(pairs, "length_gap")["margin/length_gap"][4] > 0


def test_tool_calls_that_are_json_text_are_part_of_an_answer(tmp_path) -> None:
    def as_text(place: str) -> dict:
        return {"content": "", "tool_calls": json.dumps(called(place)["tool_calls"])}

    rows = [chat("Be brief.", "Rain?", as_text("Paris"), as_text("Rome"))]
    asked = {"role": "user", "content": "And now?"}
    turn = [{"role": "assistant", **as_text("Oslo")}, {"role": "tool", "content": "Wet."}, asked]
    rows.append({**rows[0], "prompt": [*rows[0]["prompt"], *turn]})
    for side in ("prompt", "chosen", "rejected"):
        for row in rows:
            row[side] = [{"tool_calls": None, **message} for message in row[side]]
    pairs = loaded(tmp_path, rows)
    assert pairs["chosen"][0][0]["tool_calls"][0]["function"]["name"]
    report = audit(pairs, settings=AuditSettings(near_duplicates=False))
    assert report.figures["duplicates"]["same_answers"] == 0
    assert rows_of(report, "bad_turns") == set()
    text = next(text_batches(pairs, "texts"))["prompt"][1]
    asked, calls, *rest = text.split("\n\n")
    assert [asked, json.loads(calls), *rest] == ["Rain?", called("Oslo")["tool_calls"], "Wet.", "And now?"]


TURNS = ("One?", "Two?")


def test_evaluation_chats_with_tool_calls_are_read_as_chats(tmp_path) -> None:
    question = "Which is the longest river of the continent that has most of them?"
    calls = [{"role": "assistant", "content": "", "tool_calls": [{"x": value}]} for value in (1, "one")]
    chats = [{"messages": [{"role": "user", "content": question}, call]} for call in calls]
    path = tmp_path / "chats.jsonl"
    path.write_text("\n".join(map(json.dumps, chats)))
    assert [text.split("\n\n")[0] for text in read_evaluation_prompts(str(path))] == [question] * 2


@pytest.mark.parametrize(
    "row",
    [
        {"turns": ["One?", "Two?"]},
        {"turns": [{"content": "One?"}, {"content": "Two?"}]},
        {"conversations": [{"from": "system", "value": "Be brief."}] + [{"from": "human", "value": t} for t in TURNS]},
        {"prompt": [{"role": "user", "content": [{"type": "text", "text": text}]} for text in TURNS]},
    ],
)
def test_prompts_of_an_evaluation_set_are_read_in_every_layout(tmp_path, row, refused) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps(row))
    assert read_evaluation_prompts(str(path)) == ["One?\n\nTwo?"]
    path.write_text(json.dumps({name: [1, 2] for name in row}))
    refused(lambda: read_evaluation_prompts(str(path)), "has a number as message 1", "row 1")


def test_the_same_pair_under_other_system_messages_or_tools_is_no_contradiction(tmp_path) -> None:
    pirate, sober = {"content": "Arr, it rains."}, {"content": "It rains."}
    rows = [
        chat("Answer as a pirate.", "Rain?", pirate, sober),
        chat("Answer soberly.", "Rain?", sober, pirate),
        chat("Answer soberly.", "Rain?", sober, pirate),
    ]
    path = tmp_path / "roles.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    report = audit(load_pairs(str(path)), settings=AuditSettings(near_duplicates=False))
    assert report.figures["duplicates"]["opposite"]["pairs"] == 0
    assert rows_of(report, "duplicates") == {1, 2}


def test_metrics_whose_sign_is_no_opinion_mislabel_nothing(tmp_path) -> None:
    rng = np.random.default_rng(0)
    pairs = loaded(tmp_path, clean_rows(60)).add_column("source", ["web", "forum"] * 30)
    for name, values in (
        ("validation_loss", -rng.random(60)), ("embedding", rng.random(60)), ("ches", rng.normal(size=60)),
        ("nll_gap", rng.normal(size=60)), ("judge", np.full(60, np.nan)),
    ):  # fmt: skip
        pairs = pairs.add_column(f"margin/{name}", values)
    report = audit(pairs, settings=AuditSettings(near_duplicates=False))
    assert set(report.figures["noise"]["disagreement"]) == {"rating", "nll_gap"}
    assert rows_of(report, "mislabelled") == set()
    assert report.figures["margins"]["metrics"]["validation_loss"]["contradicted"] is None
    by_loss = audit(pairs, settings=AuditSettings(near_duplicates=False, metric="validation_loss"))
    assert [source["contradicted"] for source in by_loss.figures["margins"]["sources"]] == [None] * 2
    by_loss.save(tmp_path / "report")
    page = (tmp_path / "report" / "report.html").read_text()
    assert page.split("By source")[1].split("</table>")[0].count("says nothing") == 2


def test_advice_names_the_data_as_they_were_read(tmp_path, capsys) -> None:
    rows = clean_rows(300)
    rows[3]["rejected"] = rows[3]["chosen"]
    rows[4]["rejected"] = rows[4]["chosen"].upper()
    Dataset.from_list(rows).rename_column("prompt", "question").to_parquet(tmp_path / "own.parquet")
    words = [str(tmp_path / "own.parquet"), "--data.columns", "{prompt: question}"]
    assert main(["audit", *words, "--output", str(tmp_path / "report"), "--audit.near_duplicates", "false"]) == 0
    capsys.readouterr()
    figures = json.loads((tmp_path / "report" / "report.json").read_text())
    (line,) = {f["fix"] for f in figures["findings"] if f["name"] == "same_answers"}
    assert main([*shlex.split(line)[1:], "--output", str(tmp_path / "cleaned.parquet")]) == 0
    printed = capsys.readouterr().out
    assert "1 dropped" in printed or "identical_completions" in printed, "what loading dropped is printed here too"
    assert "dropped 1 pair: same_answers" in printed


def test_the_two_verbs(tmp_path, capsys, planted) -> None:
    pairs, _, evaluation = planted
    data, report = str(tmp_path / "pairs.parquet"), str(tmp_path / "report")
    scores = tmp_path / "scores.parquet"
    pl.DataFrame({"pair_id": pairs["pair_id"][:], "margin/judge": np.arange(len(pairs)) - 3.0}).write_parquet(scores)
    assert main(["audit", data, "--scores", str(scores), "--against", str(evaluation), "--output", report]) == 0
    assert "Same pair, opposite labels" in capsys.readouterr().out
    figures = json.loads((tmp_path / "report" / "report.json").read_text())
    assert figures["margins"]["metrics"]["judge"]["contradicted"]["value"] == 3 / len(pairs)
    line = next(f["fix"] for f in figures["findings"] if f["name"] == "opposite")
    assert line == f"mixdpo clean {data} --report {report} --apply opposite"
    output = tmp_path / "cleaned.parquet"
    assert main([*line.split()[1:], "--output", str(output)]) == 0
    assert "dropped 30 pairs: opposite" in capsys.readouterr().out
    assert (tmp_path / "cleaned.log.parquet").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["audit", "none.jsonl"], "no such file or folder"),
        (["audit", "DATA", "--scores", "none.parquet"], "none.parquet: no such file"),
        (["audit", "DATA", "--against", "DATA_SCORES"], "no column holds prompts"),
        (["audit", "DATA", "--audit.metric", "judge"], "no margins of the metric 'judge' (there are rating)"),
        (["audit", "DATA", "--audit.examples", "0"], "examples must be at least 1"),
        (["audit", "DATA", "--audit.seed", "-1"], "seed is -1"),
        (["audit", "DATA", "--scores", "DATA_TEXT"], "not a readable parquet file of scores"),
        (["audit", "DATA", "--audit.exampels", "1"], "did you mean audit.examples?"),
        (["clean", "DATA", "--apply", "opposite", "--report", "nowhere"], "holds no report"),
        (["clean", "DATA", "--apply", "style"], "no finding 'style' can be applied"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, arguments, message) -> None:
    loaded(tmp_path, clean_rows(20))
    Dataset.from_dict({"score": [1.0]}).to_parquet(tmp_path / "scores.parquet")
    Dataset.from_dict({"pair_id": ["a"], "margin/x": ["high"]}).to_parquet(tmp_path / "text.parquet")
    files = {"DATA": "pairs.parquet", "DATA_SCORES": "scores.parquet", "DATA_TEXT": "text.parquet"}
    files = {word: str(tmp_path / name) for word, name in files.items()}
    before = sorted(tmp_path.iterdir())
    where = ["--output", str(tmp_path / "out.parquet")]
    assert main([*(files.get(word, word) for word in arguments), *where]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("mixdpo: ")]
    assert len(lines) == 1
    assert message in lines[0]
    assert sorted(tmp_path.iterdir()) == before, "nothing half written"


def test_clean_refuses_the_report_of_other_data(tmp_path, refused) -> None:
    audit(loaded(tmp_path, clean_rows(20))).save(tmp_path / "report")
    other = loaded(tmp_path, clean_rows(20, seed=5), "other")
    refused(lambda: clean(other, tmp_path / "report", ["opposite"]), "other data", "mixdpo audit")


def test_real_graded_pairs(alpaca_graded) -> None:
    prompts = str(alpaca_graded.parent / "alpaca_eval" / "instructions.jsonl.gz")
    report = audit(load_pairs(str(alpaca_graded / "train.parquet")), against=[prompts])
    assert (report.flags["leaked"] >= 0).all(), "every prompt of it is one of AlpacaEval's"
    assert report.figures["length"]["longer"]["value"] == pytest.approx(0.663, abs=0.001)
