"""Small repositories in the layouts of published ones, for a hub on this machine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from datasets import ClassLabel, Dataset, Features, List, Value
from peft import LoraConfig, get_peft_model
from transformers import PreTrainedTokenizerFast

from hub_server import Repository
from mixdpo.evaluation.benchmarks.alpaca_eval import GAMED
from tiny import saved, tiny_llama, tiny_reward_model

PAIR_SETS = ("HuggingFaceH4/ultrafeedback_binarized", "argilla/dpo-mix-7k", "tiny/configurations")
"""Preferences in splits of their own names, in splits and two branches, and in configurations."""
Splits = Mapping[str, list[dict[str, Any]]]


def models(folder: Path, tokenizer: PreTrainedTokenizerFast) -> list[Repository]:
    """A model, its two branches in shards, an adapter of it, a reward model, and a gated one."""
    size = len(tokenizer)
    saved(tiny_llama(vocab_size=size, positions=2048), tokenizer, folder / "whole")
    for branch, seed in (("main", 1), ("v2", 2)):
        tokenizer.save_pretrained(folder / branch)
        tiny_llama(seed, vocab_size=size).save_pretrained(folder / branch, max_shard_size="50KB")
    assert (folder / "v2" / "model.safetensors.index.json").is_file()
    adapted = get_peft_model(
        tiny_llama(vocab_size=size), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    )
    adapted.peft_config["default"].base_model_name_or_path = "tiny/llama"
    adapted.save_pretrained(folder / "adapter")
    tiny_reward_model(tokenizer, folder / "reward", pad=tokenizer.pad_token_id)
    return [
        Repository("models", "tiny/llama", {"main": folder / "whole"}),
        Repository("models", "tiny/sharded", {"main": folder / "main", "v2": folder / "v2"}),
        Repository("models", "tiny/adapter", {"main": folder / "adapter"}),
        Repository("models", "tiny/reward", {"main": folder / "reward"}),
        Repository("models", "tiny/gated", {"main": folder / "whole"}, gated=True),
    ]


def pair_sets(folder: Path) -> list[Repository]:
    """UltraFeedback binarized and dpo-mix-7k as published, and a gated data set."""
    binarized = [
        {
            "prompt": f"Question {k}?",
            "prompt_id": f"{k:064x}",
            **{side: _chat(f"Question {k}?", f"{side} answer {k}") for side in ("chosen", "rejected")},
            "messages": _chat(f"Question {k}?", f"chosen answer {k}"),
            "score_chosen": 8.0,
            "score_rejected": 8.0 - k % 4,
        }
        for k in range(24)
    ]
    preferences = {"train_prefs": binarized[:16], "test_prefs": binarized[16:]}
    generations = {"train_gen": binarized[:4], "test_gen": binarized[4:8]}
    others = {"train_sft": binarized[:16], "test_sft": binarized[16:]}
    _write(folder / "ultrafeedback", {"default": {**preferences, **others, **generations}}, "data/{split}")
    mixed = [
        {
            "dataset": "argilla/distilabel-capybara-dpo-7k-binarized",
            **{side: _chat(f"Task {k}.", f"{side} {k}") for side in ("chosen", "rejected")},
            "chosen_rating": 5.0,
            "rejected_rating": 1.0 + k % 3,
        }
        for k in range(8)
    ]
    _write(folder / "mix", {"default": {"train": mixed[:6], "test": mixed[6:]}}, "data/{split}")
    _write(folder / "mix-v2", {"default": {"train": mixed[:3]}}, "data/{split}")
    plain = [{"prompt": f"Say {k}", "chosen": f"{k}", "rejected": "no"} for k in range(5)]
    _write(folder / "configurations", {"easy": {"train": plain}, "hard": {"train": plain[:2], "test": plain[2:]}})
    return [
        Repository("datasets", PAIR_SETS[0], {"main": folder / "ultrafeedback"}),
        Repository("datasets", PAIR_SETS[1], {"main": folder / "mix", "v2": folder / "mix-v2"}),
        Repository("datasets", PAIR_SETS[2], {"main": folder / "configurations"}),
        Repository("datasets", "tiny/gated-pairs", {"main": folder / "mix"}, gated=True),
    ]


def leaderboard_sets(folder: Path, subjects: list[str], questions: int = 2) -> list[Repository]:
    """The data sets of the Open LLM Leaderboard's six tasks, with few questions; `subjects` are MMLU's."""
    every, shots = range(questions), range(30)
    arc = {
        split: [
            {
                "id": f"Mercury_{k}",
                "question": f"Which comes {k}th?",
                "choices": {"text": ["ice", "water", "steam", f"{k}"], "label": ["A", "B", "C", "D"]},
                "answerKey": "ABCD"[k % 4],
            }
            for k in numbers
        ]
        for split, numbers in (("train", shots), ("validation", every), ("test", every))
    }
    hellaswag = {
        split: [
            {
                "ind": k, "activity_label": "Making tea", "ctx_a": f"A man boils {k} cups.", "ctx_b": "he",
                "ctx": f"A man boils {k} cups. he", "endings": ["waits.", "drinks [title] it.", "flies.", f"{k}."],
                "source_id": f"activitynet~v_{k}", "split": split, "split_type": "indomain", "label": str(k % 4),
            }
            for k in numbers
        ]
        for split, numbers in (("train", shots), ("validation", every))
    }  # fmt: skip
    kind = Features(
        {
            "question": Value("string"), "subject": Value("string"), "choices": List(Value("string")),
            "answer": ClassLabel(names=["A", "B", "C", "D"]),
        }
    )  # fmt: skip
    mmlu = {
        subject: {
            split: [
                {"question": f"{subject} {k}?", "subject": subject, "choices": ["1", "2", "3", "4"], "answer": k % 4}
                for k in numbers
            ]
            for split, numbers in (("test", every), ("validation", every), ("dev", range(5)))
        }
        for subject in subjects
    }
    truthful = [
        {
            "question": f"Is {k} a number?",
            **{f"{kind}_targets": {"choices": ["Yes.", "No.", "Perhaps."], "labels": [1, 0, 0]}
               for kind in ("mc1", "mc2")},
        }
        for k in every
    ]  # fmt: skip
    winogrande = {
        split: [
            {"sentence": f"The cup ({k}) is in the box as _ is small.", "option1": "cup", "option2": "box",
             "answer": str(1 + k % 2)}
            for k in numbers
        ]
        for split, numbers in (("train", shots), ("validation", every))
    }  # fmt: skip
    gsm8k = {
        split: [{"question": f"What is {k} + 1?", "answer": f"{k} + 1 = <<{k}+1={k + 1}>>{k + 1}\n#### {k + 1}"}
                for k in numbers]
        for split, numbers in (("train", shots), ("test", every))
    }  # fmt: skip
    _write(folder / "arc", {"ARC-Challenge": arc, "ARC-Easy": arc})
    _write(folder / "hellaswag", {"default": hellaswag}, "data/{split}")
    _write(folder / "mmlu", mmlu, features=kind)
    _write(folder / "truthful", {"multiple_choice": {"validation": truthful}})
    _write(folder / "winogrande", {"winogrande_xl": winogrande, "winogrande_xs": winogrande})
    _write(folder / "gsm8k", {"main": gsm8k})
    names = {
        "allenai/ai2_arc": "arc",
        "Rowan/hellaswag": "hellaswag",
        "cais/mmlu": "mmlu",
        "truthfulqa/truthful_qa": "truthful",
        "allenai/winogrande": "winogrande",
        "openai/gsm8k": "gsm8k",
    }
    return [Repository("datasets", name, {"main": folder / place}) for name, place in names.items()]


def benchmark_files(folder: Path, prompts: int = 3) -> list[Repository]:
    """The files of AlpacaEval, Arena-Hard and MT-Bench that are read from the hub, for few prompts."""
    alpaca = [
        {
            "dataset": "helpful_base", "instruction": f"Instruction {k}", "output": f"A published answer {k}.",
            "generator": "gpt4_1106_preview",
        }
        for k in range(prompts)
    ]  # fmt: skip
    _json(folder / "alpaca" / "alpaca_eval_gpt4_baseline.json", alpaca)
    _json(folder / "alpaca" / "alpaca_eval.json", [{**row, "output": "Davinci's."} for row in alpaca])
    (folder / "alpaca" / "alpaca_eval.py").write_text("# the data set's loading script\n")
    (folder / "alpaca" / "df_gamed.csv").write_text("another file\n")
    arena = folder / "arena" / "data"
    questions = [
        {"uid": f"{k:016x}", "category": "hard_prompt", "subcategory": "coding", "prompt": f"Write program {k}."}
        for k in range(prompts)
    ]
    answers = [
        {
            "uid": row["uid"], "model": "o3-mini-2025-01-31", "ans_id": "1", "tstamp": 1.0,
            "messages": [
                {"role": "user", "content": row["prompt"]},
                {"role": "assistant", "content": {"answer": "print(1)"}},
            ],
            "metadata": {},
        }
        for row in questions
    ]  # fmt: skip
    _lines(arena / "arena-hard-v2.0" / "question.jsonl", questions)
    _lines(arena / "arena-hard-v2.0" / "model_answer" / "o3-mini-2025-01-31.jsonl", answers)
    bench = folder / "bench" / "data" / "mt_bench"
    numbers = range(81, 81 + prompts)
    _lines(
        bench / "question.jsonl",
        [{"question_id": n, "category": "writing", "turns": [f"Write {n}.", "Shorter."]} for n in numbers],
    )
    _lines(
        bench / "reference_answer" / "gpt-4.jsonl",
        [
            {"question_id": n, "answer_id": "a", "model_id": "gpt-4", "tstamp": 1.0,
             "choices": [{"index": 0, "turns": ["It.", "So."]}]}
            for n in numbers
        ],
    )  # fmt: skip
    return [
        Repository("datasets", GAMED.repository, {"main": folder / "alpaca", GAMED.revision: folder / "alpaca"}),
        Repository("datasets", "lmarena-ai/arena-hard-auto", {"main": folder / "arena"}),
        Repository("spaces", "lmsys/mt-bench", {"main": folder / "bench"}),
    ]


def _chat(user: str, assistant: str) -> list[dict[str, str]]:
    return [{"content": user, "role": "user"}, {"content": assistant, "role": "assistant"}]


def _write(
    folder: Path, configs: Mapping[str, Splits], place: str = "{config}/{split}", features: Features | None = None
) -> None:
    """Write a data set as the hub's own tools do: parquet files, and a card that says which are which."""
    card = []
    for config, splits in configs.items():
        files = []
        for split, rows in splits.items():
            name = place.format(config=config, split=split)
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Dataset.from_list(rows, features=features).to_parquet(str(folder / f"{name}-00000-of-00001.parquet"))
            files.append({"split": split, "path": f"{name}-*"})
        card.append({"config_name": config, "data_files": files})
    (folder / "README.md").write_text(
        f"---\n{yaml.safe_dump({'configs': card}, sort_keys=False)}---\n\n# A data set\n"
    )


def _json(file: Path, value: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value))


def _lines(file: Path, rows: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
