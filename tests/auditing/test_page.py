"""The page of an audit in a real browser: no error, figures drawn, slider and search, hostile text shown as text."""

from __future__ import annotations

from pathlib import Path

import pytest

from mixdpo import AuditSettings, audit
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
