"""Small charts as inline SVG, and names beside points.

Colours are CSS variables of the page, so that they follow light and dark.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import ceil, floor, log10
from typing import Any, Final

from markupsafe import Markup, escape

from mixdpo.common.tables import fixed_text

WIDTH: Final = 420
HEIGHT: Final = 170
_LEFT, _BOTTOM, _TOP, _RIGHT = 44, 24, 18, 8
_GAP = 6.0

LabelPlace = tuple[float, float, bool]
"""Where a name begins or ends, and whether it stands to the left of its point (and so ends there)."""

_Box = tuple[float, float, float, float]


def number(value: float | None, digits: int = 3) -> str:
    """Write a figure for a reader: thousands separated, `digits` significant digits under 1,000, a dash for none."""
    if value is None:
        return "–"
    if abs(value) < 1e15 and (float(value).is_integer() or abs(value) >= 1000):
        return f"{value:,.0f}".replace("-", "−")
    return f"{value:.{digits}g}".replace("-", "−")


def fixed(value: float, digits: int, sign: bool = False) -> str:
    """Write a figure as `fixed_text` does, for a page."""
    return fixed_text(value, digits, sign).replace("-", "−")


def percent(value: float | None) -> str:
    """Write a share in percent with one decimal, two under 1 %."""
    if value is None:
        return "–"
    return f"{100 * value:.{2 if 0 < value < 0.01 else 1}f}\u00a0%"


def histogram(series: Mapping[str, Mapping[str, Any]], label: str) -> Markup:
    """Draw histograms on one axis, each as an area of the colour `--NAME` of its series.

    Args:
        series: by name, `edges` and `counts` of what a histogram holds.
        label: what the horizontal axis shows, with its unit.
    """
    filled = {name: one for name, one in series.items() if one["counts"]}
    if not filled:
        return Markup("")
    low = min(one["edges"][0] for one in filled.values())
    high = max(one["edges"][-1] for one in filled.values())
    most = max(max(one["counts"]) for one in filled.values())
    x = _scale(low, high, _LEFT, WIDTH - _RIGHT)
    shapes = []
    for name, one in filled.items():
        path = [f"M{x(one['edges'][0]):.1f} {_y(0, most):.1f}"]
        for left, right, count in zip(one["edges"], one["edges"][1:], one["counts"], strict=False):
            path.append(f"L{x(left):.1f} {_y(count, most):.1f}L{x(right):.1f} {_y(count, most):.1f}")
        path.append(f"L{x(one['edges'][-1]):.1f} {_y(0, most):.1f}Z")
        shapes.append(f'<path d="{"".join(path)}" class="area" style="--c:var(--{name})"/>')
    return _svg(_counts_axis(most) + "".join(shapes) + _axis(x, _ticks(low, high), label), label)


def bars(edges: Sequence[float], counts: Sequence[int], label: str, name: str) -> Markup:
    """Draw one histogram as bars that a script can colour: each has its middle in `data-at`; `name` is the id."""
    x = _scale(edges[0], edges[-1], _LEFT, WIDTH - _RIGHT)
    most = max(counts)
    shapes = [
        f'<rect x="{x(left):.2f}" width="{max(x(right) - x(left) - 0.8, 0.6):.2f}" y="{_y(count, most):.1f}" '
        f'height="{_y(0, most) - _y(count, most):.1f}" data-at="{(left + right) / 2:.6g}" class="bar">'
        f"<title>{number(left)} to {number(right)}: {count:,} pairs</title></rect>"
        for left, right, count in zip(edges, edges[1:], counts, strict=False)
    ]
    line = f'<line class="threshold" y1="{_TOP}" y2="{HEIGHT - _BOTTOM}" x1="{_LEFT}" x2="{_LEFT}"/>'
    axes = _axis(x, _ticks(edges[0], edges[-1]), label)
    return _svg(_counts_axis(most) + "".join(shapes) + line + axes, label, f'id="{escape(name)}"')


def heat_map(labels: Sequence[str], counts: Sequence[Sequence[int]]) -> Markup:
    """Draw counts of pairs as a square of cells, rejected rating to the right and chosen rating upwards."""
    size, left, bottom = 320, 78, 44
    cell = (size - 4) / len(labels)
    most = max(max(row) for row in counts) or 1
    shapes, written = [], []
    for i, row in enumerate(counts):
        y = size - (i + 1) * cell
        for j, count in enumerate(row):
            if count:
                strength = 0.12 + 0.88 * (count / most) ** 0.5
                shapes.append(
                    f'<rect x="{left + j * cell:.1f}" y="{y:.1f}" width="{cell - 1:.1f}" height="{cell - 1:.1f}" '
                    f'class="cell" style="--a:{strength:.3f}"><title>chosen {escape(labels[i])}, '
                    f"rejected {escape(labels[j])}: {count:,} pairs</title></rect>"
                )
                written.append(
                    f'<text x="{left + j * cell + cell / 2:.1f}" y="{y + cell / 2 + 3:.1f}" text-anchor="middle" '
                    f'class="count">{_brief(count)}</text>'
                )
        shapes.append(
            f'<text x="{left - 6}" y="{y + cell / 2 + 4:.1f}" text-anchor="end">{escape(_short(labels[i]))}</text>'
        )
        if len(labels) <= 6 or i % 3 == 0:
            at = left + i * cell + cell / 2
            shapes.append(
                f'<text x="{at:.1f}" y="{size + 14}" text-anchor="middle">{escape(_short(labels[i]))}</text>'
            )
    corner = f'<line x1="{left}" y1="{size}" x2="{left + size - 4}" y2="{4}" class="diagonal"/>'
    axes = (
        f'<text x="{left + size / 2:.0f}" y="{size + 34}" text-anchor="middle" class="label">rejected rating</text>'
        f'<text {_upwards(12, size / 2)} class="label">chosen rating</text>'
    )
    box = f'viewBox="0 0 {left + size} {size + bottom}" style="max-width:26rem"'
    label = "chosen rating against rejected rating"
    return Markup(f'<svg {box} role="img" aria-label="{label}">{"".join([*shapes, corner, *written])}{axes}</svg>')


def scatter(points: Sequence[Sequence[float]], first: str, second: str) -> Markup:
    """Draw points (x, y) with both zero lines and ticks."""
    height = 260
    xs, ys = ([point[k] for point in points] for k in (0, 1))
    if not points:
        return Markup("")
    ends = [(min(*values, 0), max(*values, 0)) for values in (xs, ys)]
    x = _scale(*ends[0], _LEFT + 8, WIDTH - _RIGHT - 4)
    y = _scale(*ends[1], height - 44, 10)
    dots = "".join(f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="2"/>' for a, b in points)
    lines = (
        f'<line x1="{x(0):.1f}" x2="{x(0):.1f}" y1="10" y2="{height - 40}" class="zero"/>'
        f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y(0):.1f}" y2="{y(0):.1f}" class="zero"/>'
        f'<text x="{WIDTH / 2:.0f}" y="{height - 8}" text-anchor="middle" class="label">{escape(first)}</text>'
        f'<text {_upwards(12, height / 2)} class="label">{escape(second)}</text>'
    )
    marks = [
        f'<text x="{x(tick):.1f}" y="{height - 26}" text-anchor="middle">{number(tick)}</text>'
        for tick in _ticks(*ends[0])
    ]
    marks += [
        f'<text x="{_LEFT - 4}" y="{y(tick) + 4:.1f}" text-anchor="end">{number(tick)}</text>'
        for tick in _ticks(*ends[1])
    ]
    box = f'viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(f"{first} against {second}")}"'
    return Markup(f'<svg {box}>{lines}{"".join(marks)}<g class="dots">{dots}</g></svg>')


def length_chart(points: Sequence[Mapping[str, Any]], x_label: str, y_label: str) -> Markup:
    """Draw values with their intervals against length; nothing unless two lengths are known.

    Args:
        points: `name`, `value`, `low` and `high` (None without interval), `length` (None if not known), `flagged`.
        x_label: of the lengths.
        y_label: of the values.
    """
    known = [point for point in points if point["length"] is not None]
    if len(known) < 2:
        return Markup("")
    width, height, left, bottom = 2 * WIDTH, 380, 52, 40
    ys = [value for point in known for value in (point["value"], point["low"], point["high"]) if value is not None]
    lengths = [point["length"] for point in known]
    x = _scale(min(lengths), max(lengths), left + 10, width - 60)
    y = _scale(min(ys), max(ys), height - bottom, 12)
    shapes, positions = [], [(x(point["length"]), y(point["value"])) for point in known]
    names = [point["name"] for point in known]
    labels = place_labels(positions, names, width=width, character=5.0, height=10)
    for point, (across, up), label in zip(known, positions, labels, strict=True):
        if point["low"] is not None:
            ends = f'y1="{y(point["low"]):.1f}" y2="{y(point["high"]):.1f}"'
            shapes.append(f'<line x1="{across:.1f}" x2="{across:.1f}" {ends} class="interval"/>')
        title = f"{escape(point['name'])}: {number(point['value'])}, {number(point['length'])}"
        kind = "point hollow" if point["flagged"] else "point"
        shapes.append(
            f'<circle cx="{across:.1f}" cy="{up:.1f}" r="3.5" class="{kind}"><title>{title}</title></circle>'
        )
        if label is not None:
            anchor = "end" if label[2] else "start"
            shapes.append(
                f'<text x="{label[0]:.1f}" y="{label[1] + 3:.1f}" text-anchor="{anchor}" class="named">'
                f"{escape(point['name'])}</text>"
            )
    axes = [f'<line x1="{left}" x2="{width}" y1="{height - bottom + 6}" y2="{height - bottom + 6}" class="axis"/>']
    axes += [
        f'<text x="{x(tick):.1f}" y="{height - bottom + 20}" text-anchor="middle">{number(tick)}</text>'
        for tick in _ticks(min(lengths), max(lengths))
    ]
    axes += [
        f'<text x="{left - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{number(tick)}</text>'
        for tick in _ticks(min(ys), max(ys))
    ]
    axes += [
        f'<text x="{width}" y="{height - 4}" text-anchor="end" class="label">{escape(x_label)}</text>',
        f'<text {_upwards(12, height / 2)} class="label">{escape(y_label)}</text>',
    ]
    box = f'viewBox="0 0 {width} {height}" role="img" aria-label="{escape(f"{y_label} against {x_label}")}"'
    return Markup(f"<svg {box}>{''.join(axes + shapes)}</svg>")


def place_labels(
    points: Sequence[tuple[float, float]], names: Sequence[str], *, width: float, character: float, height: float
) -> list[LabelPlace | None]:
    """Return where each name goes, None where it would cover another name or a point.

    Earlier names come first, so give the most important points first.

    Args:
        points: (x, y) of each point, in the unit of the other lengths.
        names: of the points.
        width: of the chart; no name sticks out.
        character: mean width of a character.
        height: of a line.
    """
    taken = [(x - 3, y - 3, x + 3, y + 3) for x, y in points]
    placed: list[LabelPlace | None] = []
    for (x, y), name in zip(points, names, strict=True):
        length = character * len(name)
        boxes = [
            ((x + _GAP, y - height / 2, x + _GAP + length, y + height / 2), (x + _GAP, y, False)),
            ((x - _GAP - length, y - height / 2, x - _GAP, y + height / 2), (x - _GAP, y, True)),
        ]
        place = None
        for box, candidate in boxes:
            if box[0] >= 0 and box[2] <= width and not any(_overlap(box, other) for other in taken):
                place = candidate
                taken.append(box)
                break
        placed.append(place)
    return placed


def _overlap(first: _Box, second: _Box) -> bool:
    return first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]


def _upwards(x: float, y: float) -> str:
    return f'transform="translate({x:.0f} {y:.0f}) rotate(-90)" text-anchor="middle"'


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    return lambda value: start + (value - low) / ((high - low) or 1) * (end - start)


def _y(count: float, most: float) -> float:
    return HEIGHT - _BOTTOM - count / (most or 1) * (HEIGHT - _BOTTOM - _TOP)


def _ticks(low: float, high: float) -> list[float]:
    span = (high - low) or 1
    step = 10 ** floor(log10(span / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= 6)
    return [round(k * step, 10) for k in range(ceil(low / step), floor(high / step) + 1)]


def _counts_axis(most: float) -> str:
    """Return lines across at round counts of pairs, and what they count."""
    marks = "".join(
        f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{_y(tick, most):.1f}" y2="{_y(tick, most):.1f}" class="axis"/>'
        f'<text x="{_LEFT - 5}" y="{_y(tick, most) + 4:.1f}" text-anchor="end">{_brief(tick)}</text>'
        for tick in _ticks(0, most)
        if float(tick).is_integer() and tick
    )
    return f'{marks}<text x="{_LEFT - 5}" y="10" text-anchor="end" class="label">pairs</text>'


def _brief(count: float) -> str:
    """Write a count in four characters or so."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.{0 if count >= 10 * size else 1}f}".removesuffix(".0") + letter
    return f"{count:.0f}"


def _axis(x: Any, ticks: Sequence[float], label: str) -> str:
    base = HEIGHT - _BOTTOM
    marks = "".join(
        f'<text x="{x(tick):.1f}" y="{base + 13}" text-anchor="middle">{number(tick)}</text>' for tick in ticks
    )
    return (
        f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{base}" y2="{base}" class="axis"/>{marks}'
        f'<text x="{WIDTH - _RIGHT}" y="{HEIGHT + 8}" text-anchor="end" class="label">{escape(label)}</text>'
    )


def _svg(content: str, label: str, attributes: str = "") -> Markup:
    box = f'viewBox="0 0 {WIDTH} {HEIGHT + 14}"'
    return Markup(f'<svg {box} {attributes} role="img" aria-label="{escape(label)}">{content}</svg>')


def _short(label: str) -> str:
    return label.split(" to ")[0].replace("-", "−")
