"""Names beside points of a chart, as many as fit without covering each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

Place = tuple[float, float, bool]
"""Where a name begins or ends, and whether it stands to the left of its point (and so ends there)."""

_GAP: Final = 6.0


def place_labels(
    points: Sequence[tuple[float, float]], names: Sequence[str], *, width: float, character: float, height: float
) -> list[Place | None]:
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
    places: list[Place | None] = []
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
        places.append(place)
    return places


Box = tuple[float, float, float, float]


def _overlap(first: Box, second: Box) -> bool:
    return first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]
