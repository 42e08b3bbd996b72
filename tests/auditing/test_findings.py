"""What becomes advice: no false alarms, small repairs in one command, no command that would leave nothing."""

from __future__ import annotations

import json
from copy import deepcopy

import numpy as np
import pytest

from mixdpo import AuditSettings, audit
from mixdpo.auditing.audit_data import in_tokens
from mixdpo.auditing.clean import clean, findings_of
from mixdpo.auditing.examples import MOST_TOGETHER, choose_examples, marked
from preferences import clean_rows, loaded

QUICK = AuditSettings(near_duplicates=False)


@pytest.mark.parametrize("n", [1, 3, 60, 300])
@pytest.mark.slow
def test_clean_data_of_any_size_and_seed_raise_no_alarm(tmp_path, n) -> None:
    for seed in range(20, 24):
        report = audit(loaded(tmp_path, clean_rows(n, seed), f"pairs{seed}"), settings=QUICK)
        assert [finding.name for finding in report.findings] == [], f"seed {seed}"
        assert report.repairs is None


def test_repairs_are_one_command(tmp_path) -> None:
    rows = clean_rows(300)
    rows[3]["rejected"] = rows[3]["chosen"].upper()
    rows[5]["prompt"] = "<s>" + rows[5]["prompt"]
    pairs = loaded(tmp_path, rows)
    report = audit(pairs, settings=QUICK, name="my pairs.parquet")
    assert [finding.name for finding in report.findings if finding.small] == ["same_answers", "special"]
    assert report.repairs is not None
    assert report.repairs.command == "mixdpo clean 'my pairs.parquet'"
    report.save(tmp_path / "report")
    advised = [finding["name"] for finding in findings_of(tmp_path / "report") if finding["advised"]]
    assert advised == report.repairs.apply == ["same_answers", "special"]
    left, log = clean(pairs, tmp_path / "report", advised)
    assert len(left) == report.repairs.left == 298
    assert log.filter(log["action"] == "dropped")["row"].to_list() == [4, 6]
    assert audit(left, settings=QUICK).findings == []


def test_no_command_that_would_leave_nothing(tmp_path) -> None:
    rows = [{**row, "prompt": "<|im_start|>" + row["prompt"]} for row in clean_rows(20)]
    evaluation = tmp_path / "evaluation.jsonl"
    evaluation.write_text("".join(json.dumps({"prompt": row["prompt"]}) + "\n" for row in rows))
    findings = audit(loaded(tmp_path, rows), against=[str(evaluation)], settings=QUICK).findings
    fixes = {finding.name: finding.fix for finding in findings}
    assert fixes["leaked"] == "evaluate on other sets"
    assert fixes["special"].startswith("fix the source")
    assert all(finding.action is None and not finding.small for finding in findings)


def test_special_tokens_of_the_tokenizer_itself(tmp_path, tokenizer) -> None:
    own = deepcopy(tokenizer)
    own.add_special_tokens({"additional_special_tokens": ["[[turn.over]]"]})
    rows = clean_rows(40)
    rows[7]["chosen"] += " [[turn.over]]"
    rows[8]["chosen"] = "[[turnXover]] " + rows[8]["chosen"]
    rows[9]["rejected"] += " <|im_end|> more"
    report = audit(loaded(tmp_path, rows), tokenizer=own, settings=QUICK)
    assert np.flatnonzero(report.flags["special"] >= 0).tolist() == [7, 9]
    eos = report.figures["tokens"]["eos"]
    assert eos["answers"] == 80
    assert (eos["none"]["value"], eos["several"]["value"]) == (0, 1 / 80)


def test_tokens_of_a_part_stand_for_all(tmp_path, tokenizer) -> None:
    pairs = loaded(tmp_path, clean_rows(400))
    whole, part = (
        audit(pairs, tokenizer=tokenizer, settings=AuditSettings(near_duplicates=False, token_pairs=n)).figures["plan"]
        for n in (400, 80)
    )
    for i in (0, 50, 200):
        for route in ("sft_read", "preference_read"):
            assert part[route][i] == pytest.approx(whole[route][i], rel=0.03, abs=1)
    assert in_tokens(np.array([10, 20, 5]), np.array([-1, 30, 20])).tolist() == [20, 30, 20]


def test_examples_are_the_likeliest_and_no_group_fills_the_page() -> None:
    n = 60
    doubt = np.full(n, -1)
    doubt[[40, 7, 22, 3]] = [0, 1, 2, 3]
    one_group = np.zeros(n, dtype=np.int64)
    rng = np.random.default_rng(0)
    assert list(choose_examples({"mislabelled": doubt}, {}, 3, rng)) == [40, 7, 22]
    assert list(choose_examples({"duplicates": one_group}, {}, 8, rng)) == list(range(MOST_TOGETHER))
    leaked = np.repeat(np.arange(6), 10)
    assert {row // 10 for row in choose_examples({"leaked": leaked}, {}, 5, rng)} < set(range(6))
    assert len(choose_examples({"leaked": leaked}, {}, 5, rng)) == 5


def test_few_common_words_between_differences_are_marked_with_them() -> None:
    first, second = marked(
        "it ends like so: red of blue. The end of it", "it ends like so: green of pink. The end of it"
    )
    assert first == ["it ends like so: ", "red of blue.", " The end of it"]
    assert second == ["it ends like so: ", "green of pink.", " The end of it"]
