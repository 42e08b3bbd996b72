from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mixdpo.common.errors import InputError
from mixdpo.judges.prompt import JudgePrompt, fill, read_judge_prompt


def test_templates_are_filled_in_one_pass() -> None:
    assert fill("{a} {b} {c}", {"a": "{b}", "b": "{a}"}) == "{b} {a} {c}"
    with pytest.raises(InputError, match=r"no placeholder \{d\}"):
        JudgePrompt((("user", "{a}"),)).filled({"d": ""})


def test_an_arena_prompt_is_read_from_yaml(tmp_path: Path) -> None:
    (tmp_path / "judge.yaml").write_text(
        yaml.safe_dump({"system_prompt": "Judge.", "prompt_template": ["{QUESTION}"]})
    )
    assert read_judge_prompt(tmp_path / "judge.yaml").messages == (("system", "Judge."), ("user", "{QUESTION}"))
