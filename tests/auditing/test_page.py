"""The page of an audit in a real browser: no error, figures drawn, slider and search, hostile text shown as text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from accessibility import serious_faults
from mixdpo import AuditSettings, audit
from mixdpo.auditing import page_rows
from mixdpo.auditing.examples import EXAMPLE_CHARACTERS, MOST_EXAMPLES, marked
from mixdpo.auditing.report import audit_page
from preferences import HOSTILE, clean_rows, loaded

LOW_CONTRAST = """() => {
  const channels = (text) => (text.match(/[0-9.]+/g) || []).map(Number);
  const linear = (v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = (c) => [0.2126, 0.7152, 0.0722].reduce((sum, part, i) => sum + part * linear(c[i] / 255), 0);
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const c = channels(getComputedStyle(e).backgroundColor);
      if (c.length === 3 || c[3] > 0) return c;
    }
    return [255, 255, 255];
  };
  return [...document.querySelectorAll("main *, header *, nav *, footer *")]
    .filter((e) => !e.disabled && !e.closest("svg"))
    .filter((e) => [...e.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
    .filter((e) => {
      const [a, b] = [light(channels(getComputedStyle(e).color)), light(ground(e))];
      return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) < 4.5;
    })
    .map((e) => e.tagName + "." + e.className + ": " + e.textContent.slice(0, 30));
}"""
"""Texts of less contrast with their ground than WCAG 2 asks of small type (4.5)."""


@pytest.fixture
def page_path(tmp_path, tokenizer) -> Path:
    rows = clean_rows(120)
    rows[0]["chosen"] += " " + HOSTILE
    rows[1]["prompt"] = HOSTILE + "<s>" + rows[1]["prompt"]
    rows[2] = {**rows[3], "chosen": rows[3]["rejected"], "rejected": rows[3]["chosen"]}
    for row in rows:
        row["margin/judge"] = row["score_chosen"] - 3
        row |= {f"quality/start/{side}": row["score_chosen"] - 4 for side in ("chosen", "rejected")}
        row |= {f"quality/start/{side}_wins": row["score_chosen"] / 9 for side in ("chosen", "rejected")}
    pairs = loaded(tmp_path, rows, "pairs")
    report = audit(pairs, tokenizer=tokenizer, settings=AuditSettings(examples=130), name=HOSTILE)
    return report.save(tmp_path / "report")


@pytest.mark.parametrize("width", [390, 1180])
@pytest.mark.slow
def test_in_chromium(browser, page_path, width) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme="dark", reduced_motion="reduce")
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(page_path.as_uri())
    assert page.evaluate("window.hacked") is None
    assert page.evaluate("document.documentElement.scrollWidth") == width, "nothing sticks out"
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert page.locator("h1").inner_text() == HOSTILE
    assert page.locator("svg").count() >= 5
    assert all(
        box["width"] > 100 and box["height"] > 50 for box in (svg.bounding_box() for svg in page.locator("svg").all())
    )

    page.locator("#tau").fill("0")
    assert page.locator("#by-pairs-text").inner_text().startswith("0 of 120")
    assert page.locator("#margins .sft").count() == 0
    page.locator("#tau").fill(page.locator("#tau").get_attribute("max"))
    assert page.locator("#by-pairs-text").inner_text().startswith("119 of 120")
    assert page.locator("#margins .sft").count() > 0
    assert (
        page.locator("#by-pairs i").bounding_box()["width"] > 0.9 * page.locator("#by-pairs").bounding_box()["width"]
    )

    slider = page.locator("#tau")
    slider.focus()
    slider.press("Home")
    slider.press("ArrowRight")
    assert slider.input_value() == "1", "the arrow keys move the slider"
    assert slider.get_attribute("aria-valuetext").endswith("of pairs to SFT")
    assert page.locator("#tau-line").inner_text().startswith("plan.threshold: ")
    assert page.evaluate(LOW_CONTRAST) == []

    assert page.locator(".as-tokens").count() >= 2
    assert page.locator(".as-tokens .chosen .of-trained").first.inner_text() != ""

    page.locator("h1").click()
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "search"
    page.locator("#search").fill("onerror")
    shown = page.locator(".example")
    assert shown.count() == 2
    assert HOSTILE in page.locator("#examples-list").inner_text()
    page.locator("#search").fill("no such words anywhere")
    assert shown.count() == 0
    page.locator("#search").fill("")
    assert shown.count() == 5
    first = shown.first.inner_text()
    page.locator("#after").click()
    assert shown.first.inner_text() != first
    page.locator("[data-kind=opposite]").click()
    assert shown.count() == 2
    assert page.locator("mark").count() > 0
    page.locator("#theme").click()
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    assert page.evaluate(LOW_CONTRAST) == []
    page.goto(page_path.as_uri() + "?theme=light")
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    assert problems == []
    assert {url.split(":")[0] for url in requests} == {"file"}


@pytest.fixture
def long_page(tmp_path) -> Path:
    """A page of more rows than examples: repeated pairs, contradicted ratings, and one text in Arabic."""
    rows = clean_rows(90)
    rows[0] |= {"score_chosen": 2.0, "score_rejected": 8.0}
    rows[70]["chosen"] = "الطقس في الجبال يتغير بسرعة"
    pairs = loaded(tmp_path, [*rows, *rows[:20]])
    return audit(pairs, settings=AuditSettings(examples=2), name="pairs.parquet").save(tmp_path / "report")


HEAT_CONTRAST = """() => {
  const channels = (text) => text.match(/[0-9.]+/g).map(Number).slice(0, 3);
  const linear = (v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = (c) => [0.2126, 0.7152, 0.0722].reduce((sum, part, i) => sum + part * linear(c[i] / 255), 0);
  const card = document.querySelector(".cell").closest(".card");
  const under = channels(getComputedStyle(card).backgroundColor);
  const ink = light(channels(getComputedStyle(document.querySelector("svg .count")).fill));
  return Math.min(...[...document.querySelectorAll(".cell")].map((cell) => {
    const [style, colour] = [getComputedStyle(cell), channels(getComputedStyle(cell).fill)];
    const mixed = light(colour.map((part, i) => part * style.fillOpacity + under[i] * (1 - style.fillOpacity)));
    return (Math.max(ink, mixed) + 0.05) / (Math.min(ink, mixed) + 0.05);
  }));
}"""
"""The lowest contrast of a number on its cell of the heat map."""


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
@pytest.mark.slow
def test_all_rows_can_be_searched_linked_and_downloaded(browser, long_page, width, scheme) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce")
    page.goto(long_page.as_uri())
    page.wait_for_function("document.getElementById('searched').textContent")
    assert page.locator("#searched").inner_text() == "All 110 rows are searched."
    assert page.evaluate(HEAT_CONTRAST) >= 4.5

    shown = page.locator(".example")
    page.locator("#search").fill("الجبال")
    assert shown.count() == 1
    assert page.evaluate("getComputedStyle(document.querySelector('.example .chosen .text')).direction") == "rtl"
    assert page.evaluate("getComputedStyle(document.querySelector('.example .prompt')).direction") == "ltr"
    link = shown.locator("header a")
    assert (link.inner_text(), link.get_attribute("href")) == ("row 71", "#row-71")

    page.locator("#kind").select_option("duplicates")
    page.locator("#search").fill("")
    assert page.locator("#hits").inner_text().startswith("40 rows")
    page.goto(long_page.as_uri() + "#row-7")
    page.wait_for_function("document.querySelectorAll('.example').length === 1")
    assert shown.locator("header a").inner_text() == "row 7", "and not row 70"
    assert "Exact duplicates" in shown.inner_text()

    with page.expect_download() as started:
        page.locator("[data-download=duplicates]").click()
    assert started.value.suggested_filename == "duplicates.jsonl"
    lines = [json.loads(line) for line in Path(started.value.path()).read_text(encoding="utf-8").splitlines()]
    assert [line["row"] for line in lines] == [*range(1, 21), *range(91, 111)]
    assert len({line["group"] for line in lines}) == len({line["pair_id"] for line in lines}) == 20
    assert all(line["prompt"] and line["chosen"] and line["rejected"] for line in lines)

    cut = "[...document.querySelectorAll('.scroll, .card')].filter((e) => e.scrollWidth > e.clientWidth + 1).length"
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate(cut) == 0, "no table is cut"


@pytest.mark.slow
def test_axe_finds_no_serious_fault(browser, page_path) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 900}, reduced_motion="reduce")
    for theme in ("light", "dark"):
        page.goto(f"{page_path.as_uri()}?theme={theme}")
        page.wait_for_function("document.getElementById('searched').textContent")
        assert serious_faults(page) == []


def test_hostile_text_never_reaches_the_markup(page_path) -> None:
    html = page_path.read_text(encoding="utf-8")
    assert "window.hacked" in html
    assert "<script>window.hacked" not in html
    assert "<img" not in html
    assert html.count("<script") == 2


def test_the_page_stays_small_whatever_the_texts_are(tmp_path) -> None:
    worst = "< > " * EXAMPLE_CHARACTERS
    first, second = marked(worst[:EXAMPLE_CHARACTERS], worst[2 : EXAMPLE_CHARACTERS + 2])
    example = {"row": 10**9, "of": ["ties"], "prompt": "<" * EXAMPLE_CHARACTERS, "chosen": first, "rejected": second}
    example |= {"numbers": {f"margin/{i}": 0.1 + i for i in range(8)}, "note": "\U0001f600" * EXAMPLE_CHARACTERS}
    report = audit(loaded(tmp_path, clean_rows(60))).to_dict()
    page = audit_page(report, [example] * MOST_EXAMPLES, {"ties": "Ties"})
    assert len(page.encode()) < 5_000_000


def test_of_many_rows_the_flagged_ones_are_on_the_page(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(page_rows, "PAGE_PAIRS", 10)
    monkeypatch.setattr(page_rows, "PAGE_CHARACTERS", 300)
    rows = clean_rows(40)
    rows[30]["rejected"] = rows[30]["chosen"].upper()
    found = audit(loaded(tmp_path, rows), settings=AuditSettings(near_duplicates=False)).rows
    assert (found["of"], found["pairs"], found["cut"]) == (40, [*range(9), 30], 10)
    assert found["rows"][-1] == (31, *(rows[30][side][:10] for side in ("prompt", "chosen", "rejected")))
    assert [pair for pair, _, _ in found["flagged"]["same_answers"]] == [30]
