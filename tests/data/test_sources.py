"""Every format gives the same rows, and every broken file one line that names file, row, column and remedy."""

from __future__ import annotations

import csv
import gzip
import json
import os
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict

from mixdpo import load_pairs
from mixdpo.common import text_limits
from mixdpo.data import diagnose
from mixdpo.data.data_settings import DataSettings
from mixdpo.data.load import read_pairs
from mixdpo.data.sources import open_source


def write_format(kind: str, rows: list[dict[str, Any]], folder: Path) -> str:
    path = folder / f"pairs{kind}"
    data = Dataset.from_list(rows)
    if kind == ".parquet":
        data.to_parquet(path)
    elif kind in (".jsonl", ".ndjson"):
        path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    elif kind in (".jsonl.gz", ".json.gz"):
        path.write_bytes(gzip.compress(("\n".join(map(json.dumps, rows)) + "\n").encode()))
    elif kind == ".json":
        path.write_text(json.dumps(rows, indent=2))
    elif kind in (".csv", ".tsv"):
        with path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]), delimiter="\t" if kind == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    elif kind == ".arrow":
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, data.data.table.schema) as writer:
            writer.write_table(data.data.table)
    else:
        data.save_to_disk(path)
    return str(path)


FORMATS = [".parquet", ".jsonl", ".ndjson", ".jsonl.gz", ".json.gz", ".json", ".csv", ".tsv", ".arrow", "_saved"]


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_gives_the_same_pairs(
    kind: str, text_rows: list[dict[str, Any]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    expected = load_pairs(write_format(".jsonl", text_rows, tmp_path))
    path = write_format(kind, text_rows, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    capfd.readouterr()  # what writing the file printed
    found = load_pairs(path)
    rows = found["source_row"][:]
    assert rows == ([2, 3, 4] if kind in (".csv", ".tsv") else [1, 2, 3]), "the line, where there are lines"
    assert found[:] == {**expected[:], "source_row": rows}
    assert found.features == expected.features
    assert sorted(tmp_path.rglob("*")) == before, "something was written beside the user's data"
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", [".parquet", ".jsonl", ".json", "_saved"])
def test_every_format_holds_messages(kind: str, chat_rows: list[dict[str, Any]], tmp_path: Path) -> None:
    expected = load_pairs(write_format(".jsonl", chat_rows, tmp_path))
    assert load_pairs(write_format(kind, chat_rows, tmp_path))[:] == expected[:]


def test_csv_keeps_text_that_looks_like_something_else(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("prompt,chosen,rejected\n6*7?,42,None\n1/0?,NA,007\n")
    pairs = load_pairs(str(path))
    assert (pairs["chosen"][:], pairs["rejected"][:]) == (["42", "NA"], ["None", "007"])


def test_csv_with_long_cells_and_words_after_quotes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f'prompt,chosen,rejected\n"Say" it,{"a" * 140_000},b\np,c,\n')
    with caplog.at_level("WARNING", "mixdpo"):
        pairs = load_pairs(str(path))
    assert [len(text) for text in pairs["chosen"]] == [140_000]
    assert "row 3" in caplog.text


@pytest.mark.parametrize("kind", [".jsonl", ".jsonl.gz", ".csv", ".parquet"])
def test_a_changed_file_never_gives_stale_rows(kind: str, text_rows: list[dict[str, Any]], tmp_path: Path) -> None:
    path = write_format(kind, text_rows, tmp_path)
    os.utime(path, (1e9, 1e9))
    assert load_pairs(path)["chosen"][0] == "Four."
    text_rows[0]["chosen"] = "FOUR."  # the same length
    write_format(kind, text_rows, tmp_path)
    os.utime(path, (1e9, 1e9))
    assert load_pairs(path)["chosen"][0] == "FOUR."


def test_a_folder_is_read_by_split(text_rows: list[dict[str, Any]], tmp_path: Path, refused: Any) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    Dataset.from_list(text_rows[:2]).to_parquet(folder / "train.parquet")
    Dataset.from_list(text_rows[2:]).to_parquet(folder / "test.parquet")
    (folder / "README.md").write_text("about")
    assert len(load_pairs(str(folder))) == 2
    assert load_pairs(str(folder), split="test")["chosen"][:] == ["Rex."]
    refused(lambda: load_pairs(str(folder), split="validation"), str(folder), "validation", "train, test")


def test_a_saved_dict_is_read_by_split(text_rows: list[dict[str, Any]], tmp_path: Path, refused: Any) -> None:
    DatasetDict(train_prefs=Dataset.from_list(text_rows)).save_to_disk(tmp_path / "saved")
    assert len(load_pairs(str(tmp_path / "saved"), split="train_prefs")) == 3
    refused(lambda: load_pairs(str(tmp_path / "saved")), "no split 'train'", "train_prefs")


def test_a_data_set_of_ones_own_is_read_as_a_file_is(
    text_rows: list[dict[str, Any]], jsonl: Any, refused: Any
) -> None:
    expected = load_pairs(jsonl(text_rows))
    own = Dataset.from_list(text_rows)
    assert load_pairs(own)[:] == load_pairs(own.with_format("torch"))[:] == expected[:]
    changed = own.rename_column("prompt", "ask").select([2, 0])
    assert load_pairs(changed, columns={"prompt": "ask"})["pair_id"][:] == [expected["pair_id"][i] for i in (2, 0)]
    both = DatasetDict(train=own, test=own.select([1]))
    assert load_pairs(both, split="test")[:] == {**expected.select([1])[:], "source_row": [1]}
    assert load_pairs(own, split="train[1:]")[:] == expected.select([1, 2])[:]
    refused(lambda: load_pairs(both, split="tset"), "the data set", "one of train, test")
    refused(lambda: load_pairs(own, split="test"), "it has no splits")
    refused(lambda: load_pairs(own.select([])), "it holds no rows")
    wrong = Dataset.from_list([{**text_rows[0], "score_chosen": float("nan")}])
    refused(lambda: load_pairs(wrong), "the data set, row 1, column 'score_chosen'")


def test_slices_of_a_file_keep_the_files_rows(text_rows: list[dict[str, Any]], jsonl: Any, refused: Any) -> None:
    path = jsonl(text_rows)
    assert load_pairs(path, split="train[1:]")["chosen"][:] == ["Red.", "Rex."]
    text_rows[2]["chosen"] = 7
    refused(lambda: load_pairs(jsonl(text_rows), split="train[1:]"), "row 3", "'chosen'", "a number")
    refused(lambda: load_pairs(path, split="train[9:]"), "no rows")
    refused(lambda: load_pairs(path, split="tr ain"), "not understood")
    refused(lambda: load_pairs(path, split="test"), "a file has no splits", "leave `split` out")
    refused(lambda: load_pairs(path, name="default"), path, "only a data set of the hub has a name")
    refused(lambda: load_pairs(path, revision="v2"), path, "'v2' cannot be read", "leave `revision` out")


def test_a_glob_joins_files_in_order(
    text_rows: list[dict[str, Any]], jsonl: Any, tmp_path: Path, refused: Any
) -> None:
    for number in (2, 0, 1):
        jsonl([text_rows[number]], f"part-{number}.jsonl")
    pattern = str(tmp_path / "part-*.jsonl")
    assert load_pairs(pattern)["chosen"][:] == ["Four.", "Red.", "Rex."]
    jsonl([text_rows[0]], "part-3.jsonl")
    jsonl(["", json.dumps({**text_rows[0], "chosen": 1})], "part-4.jsonl")
    refused(lambda: load_pairs(pattern), "part-4.jsonl, row 2, column 'chosen'")
    (tmp_path / "part-5.csv").write_text("a\n")
    refused(lambda: load_pairs(str(tmp_path / "part-*")), "several formats (csv, json)")
    refused(lambda: load_pairs(str(tmp_path / "none-*.jsonl")), "no file matches")


def test_a_key_that_comes_up_late_in_a_big_file(text_rows: list[dict[str, Any]], jsonl: Any) -> None:
    def row(number: int, **more: Any) -> dict[str, Any]:
        turns = [{"role": "user", "content": "x" * 5000 + str(number)}]
        return {
            "chosen": [*turns, {"role": "assistant", "content": "a", **more}],
            "rejected": [*turns, {"role": "assistant", "content": "b"}],
        }

    pairs = load_pairs(jsonl([*(row(i) for i in range(1200)), row(1200, name="Al")]))
    assert pairs[1200]["chosen"] == [{"role": "assistant", "content": "a", "name": "Al"}]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("ending", [".jsonl", ".json", ".jsonl.gz"])
def test_json_of_any_encoding(encoding: str, ending: str, tmp_path: Path, refused: Any) -> None:
    rows = [{"prompt": "Straße?", "chosen": "größer", "rejected": "€ klein"}] * 2
    text = "\n" + "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    if ending == ".json":
        text = json.dumps(rows, ensure_ascii=False, indent=1)

    def write(name: str, content: str) -> str:
        raw = content.encode(encoding)
        (tmp_path / name).write_bytes(gzip.compress(raw) if ending.endswith(".gz") else raw)
        return str(tmp_path / name)

    pairs, report = read_pairs(DataSettings(path=write(f"a{ending}", text)))
    assert pairs["pair_id"][:] == load_pairs(rows)["pair_id"][:]
    assert pairs["source_row"][:] == ([1, 2] if ending == ".json" else [2, 4])
    guessed = () if encoding == "utf-8-sig" else (f"guessed: encoding {encoding}",)
    assert report.sources[0].notes == guessed
    refused(lambda: load_pairs(write(f"b{ending}", text[:-1])), "not valid JSON")


def test_a_name_with_glob_characters_is_a_name(text_rows: list[dict[str, Any]], jsonl: Any) -> None:
    assert len(load_pairs(jsonl(text_rows, "pairs[1].jsonl"))) == 3


BROKEN: dict[str, tuple[str, bytes, list[str]]] = {
    "zero bytes": ("a.jsonl", b"", ["the file is empty"]),
    "only line ends": ("a.jsonl", b"\n\n", ["no rows"]),
    "empty list": ("a.json", b"[]", ["no rows"]),
    "header only": ("a.csv", b"prompt,chosen,rejected\n", ["no rows"]),
    "broken line": ("a.jsonl", b'{"chosen": "a"}\n\n{"chosen": "b\n', ["row 3", "not valid JSON", "fix or delete"]),
    "cut line": ("a.jsonl", b'{"chosen": "a"}\n{"chosen": \n', ["row 2", "Expecting value at character 11"]),
    "not an object": ("a.jsonl", b'{"chosen": "a"}\n"text"\n', ["row 2", "not a JSON object"]),
    "half an emoji": (
        "a.jsonl",
        b'{"chosen": "a"}\n\n{"chosen": "\\ud83d"}\n',
        ["row 3", "surrogate", "fix or delete"],
    ),
    "a key twice": ("a.jsonl", b'{"chosen": "a"}\n{"chosen": "b", "chosen": "c"}\n', ["row 2", "'chosen' twice"]),
    "a huge number": ("a.jsonl", b'{"n": 1}\n{"n": -1e999}\n', ["row 2", "-1e999", "larger than any float"]),
    "broken list": ("a.json", b'[{"chosen": "a"},\n {"chosen" "b"}]', ["row 2", "not valid JSON"]),
    "list of texts": ("a.json", b'[{"chosen": "a"}, "b"]', ["row 2", "not an object"]),
    "not UTF-8": (
        "a.jsonl",
        '{"chosen": "é", "rejected": "b"}\n'.encode() + b'{"chosen": "\xff", "rejected": "b"}\n',
        ["row 2", "UTF-8"],
    ),
    "damaged gzip": (
        "a.jsonl.gz",
        gzip.compress(os.urandom(500).hex().encode())[:-30],
        ["compressed file is damaged"],
    ),
    "cells too many": ("a.csv", b"chosen,rejected\na,b\nc,d,e\n", ["row 3", "3 cells where the header has 2"]),
    "not parquet": ("a.parquet", b"PAR1nonsense", ["broken parquet"]),
    "unknown ending": ("a.xlsx", b"x", ["are not read", ".parquet"]),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_one_line(case: str, tmp_path: Path, refused: Any, capfd: Any) -> None:
    name, content, words = BROKEN[case]
    (tmp_path / name).write_bytes(content)
    refused(lambda: load_pairs(str(tmp_path / name)), str(tmp_path / name), *words)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("levels", [1000, 100_000])
@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".json"])
def test_json_nested_too_deeply_is_one_line(levels: int, ending: str, tmp_path: Path, refused: Any) -> None:
    rows = ['{"prompt": "p", "chosen": "a", "rejected": "b"}', '{"chosen": ' + '[{"a": ' * levels]
    rows[1] += "1" + "}]" * levels + "}"
    text = f"[{rows[0]},\n{rows[1]}]" if ending == ".json" else "\n".join(rows)
    file = tmp_path / f"a{ending}"
    file.write_bytes(gzip.compress(text.encode()) if ending.endswith(".gz") else text.encode())
    refused(lambda: load_pairs(str(file)), f"a{ending}, row 2", "nested more than 200 levels deep at character")


@pytest.mark.parametrize("column", ["tools", "chosen", "chat_template_kwargs"])
@pytest.mark.parametrize("levels", [300, 1000, 100_000])
def test_text_nested_too_deeply_is_one_line(column: str, levels: int, jsonl: Any, refused: Any) -> None:
    deep = '{"a": ' * levels + "1" + "}" * levels
    prompt, answer = {"role": "user", "content": "p"}, [{"role": "assistant", "content": "a"}]
    row = {"prompt": [prompt], "chosen": answer, "rejected": [{"role": "assistant", "content": "b"}]}
    values = {
        "tools": f"[{deep}]",
        "chosen": f'[{{"role": "user", "content": "p"}}, {{"role": "assistant", "content": "a", "b": {deep}}}]',
        "chat_template_kwargs": deep,
    }
    refused(lambda: load_pairs(jsonl([row | {column: values[column]}])), "row 1", f"column '{column}'", "nested")


def test_brackets_in_texts_are_no_nesting(jsonl: Any) -> None:
    chosen = "{[" * 500 + '"\\'
    pairs = load_pairs(jsonl([{"prompt": "p", "chosen": chosen, "rejected": "b"}]))
    assert pairs[0]["chosen"] == chosen


def test_a_line_too_long_for_a_row_is_one_line(
    monkeypatch: pytest.MonkeyPatch, jsonl: Any, text_rows: list[dict[str, Any]], refused: Any
) -> None:
    for module in (diagnose, text_limits):
        monkeypatch.setattr(module, "LONGEST_LINE", 5_000_000)
    monkeypatch.setattr(diagnose, "_CHUNK", 1000)
    assert len(load_pairs(jsonl([*text_rows, text_rows[0] | {"chosen": "x" * 4_900_000}]))) == 4
    path = jsonl([*text_rows, text_rows[0] | {"chosen": "x" * 12_345_678}, text_rows[0]])
    refused(lambda: load_pairs(path), "row 4: the line has 12 MB, and one of at most 5 MB is read; write one row")


@pytest.mark.parametrize("kind", [".jsonl", ".csv", ".parquet", "messages"])
def test_a_text_too_long_to_be_tokenised_is_one_line(kind: str, tmp_path: Path, refused: Any) -> None:
    def answer(text: str) -> Any:
        return [{"role": "assistant", "content": text}] if kind == "messages" else text

    prompt = [{"role": "user", "content": "p"}] if kind == "messages" else "p"
    rows = [{"prompt": prompt, "chosen": answer("é" * length), "rejected": answer("b")} for length in (1, 10_000_000)]
    ending = ".jsonl" if kind == "messages" else kind
    assert len(load_pairs(write_format(ending, rows, tmp_path))) == 2
    rows[1]["chosen"] = answer("é" * 10_000_001)
    row = "row 3" if kind == ".csv" else "row 2"
    path = write_format(ending, rows, tmp_path)
    refused(
        lambda: load_pairs(path), f"{row}, column 'chosen': the value has 10,000,001 characters", "at most 10,000,000"
    )


def test_a_url_is_refused_without_what_may_be_a_key(refused: Any) -> None:
    url = "https://me:hidden@host/hidden/a.jsonl?key=hidden"
    assert "hidden" not in str(refused(lambda: load_pairs(url), "https://host/.../...: data is not read from a URL"))


def test_a_parquet_file_broken_in_the_middle(tmp_path: Path, refused: Any) -> None:
    path = tmp_path / "a.parquet"
    rows = [os.urandom(200).hex() for _ in range(300)]
    pq.write_table(pa.table({"prompt": rows, "chosen": rows, "rejected": rows}), path, row_group_size=100)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle - 20_000 : middle + 20_000] = b"\xff" * 40_000
    path.write_bytes(bytes(content))
    refused(lambda: load_pairs(str(path)), "a.parquet, row ", "broken parquet", "download it again")


def test_parquet_files_of_other_columns(tmp_path: Path, refused: Any) -> None:
    pq.write_table(pa.table({"chosen": ["a"], "rejected": ["b"]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"chosen": ["a"], "other": ["b"]}), tmp_path / "2.parquet")
    refused(lambda: load_pairs(str(tmp_path / "*.parquet")), "2.parquet", "'rejected'", "absent", "separate sources")


@pytest.mark.parametrize("path", ["no/such/file.jsonl", "nothing", "data/train.jsonl", "/no/where"])
def test_a_missing_path(path: str, refused: Any) -> None:
    refused(lambda: load_pairs(path), path, "no such file or folder", "owner/name")


def test_an_empty_folder(tmp_path: Path, refused: Any) -> None:
    refused(lambda: load_pairs(str(tmp_path)), str(tmp_path), "holds no data files", ".jsonl")


@pytest.mark.parametrize(
    "error", [ConnectionError("Couldn't reach 'a/b' on the Hub\nmore"), ValueError('Unknown split "train".')]
)
def test_an_unreachable_hub_is_one_line(error: Exception, monkeypatch: pytest.MonkeyPatch, refused: Any) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", fail)
    refused(lambda: load_pairs("a/b"), "cannot load the data set 'a/b'", "not whole in the cache", "HF_HUB_OFFLINE")


def test_a_hub_id_reaches_the_library(text_rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(*args: Any, **kwargs: Any) -> Dataset:
        asked.append((args, kwargs))
        return Dataset.from_list(text_rows)

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert len(load_pairs("owner/name", split="train_prefs", name="config", revision="abc")) == 3
    assert asked == [(("owner/name", "config"), {"split": "train_prefs", "revision": "abc"})]


def test_rows_are_counted_as_an_editor_does(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('prompt,chosen\n"two\nlines",b\n\nc,d\n')
    source = open_source(str(path))
    assert [source.places[row] for row in (1, 0)] == [(str(path), 5), (str(path), 2)]


def test_real_data(alpaca_graded: Path) -> None:
    pairs, report = read_pairs(DataSettings(path=str(alpaca_graded)))
    assert (len(pairs), report.read, report.dropped) == (4000, 4000, {})
    assert report.sources[0].contradicted == 0
    assert len(load_pairs(str(alpaca_graded), split="test")) == 400
