"""Parts of a data set that other trainers cut off to measure on, as slices of splits."""

from __future__ import annotations

from typing import Any

from mixdpo.recipe.convert.conversion import Conversion


def first_rows(sources: list[dict[str, Any]], count: int) -> None:
    """Read only the first so many rows of each source."""
    for source in sources:
        source["split"] = f"{source.get('split', 'train')}[:{count}]"


def cut_off(conversion: Conversion, key: str, size: Any, sources: list[dict[str, Any]]) -> None:
    """Make the evaluation data of the last rows of the sources, which the training data lose, and say so.

    Args:
        conversion: gets the section eval_data.
        key: that asks for it.
        size: a share of each source below 1, else a number of rows.
        sources: of the training data, with `path` and perhaps `split`; their splits are cut.
    """
    if not size:
        return
    size = float(size)
    if size >= 1 and len(sources) > 1:
        conversion.taken.remove(key)
        conversion.left_out[key] = "how many rows each of several sources gives is not known; add a section eval_data"
        return
    measured = []
    for source in sources:
        name, _, rows = str(source.get("split", "train")).partition("[:")
        end = int(rows.removesuffix("]")) if rows else None
        if end is not None:  # both counted from the front
            at = end - int(size) if size >= 1 else end - round(size * end)
            first, last = f"[:{at}]", f"[{at}:{end}]"
        elif size >= 1:
            first, last = f"[:-{int(size)}]", f"[-{int(size)}:]"
        else:
            at = round(100 * (1 - size))
            first, last = f"[:{at}%]", f"[{at}%:]"
        measured.append({**source, "split": name + last})
        source["split"] = name + first
    put_sources(conversion, "eval_data", measured)
    shown = ", ".join(str(source["split"]) for source in measured)
    conversion.guessed[key] = (
        f"the last rows are measured on ({shown}), where {conversion.trainer} draws them at random"
    )


def put_sources(conversion: Conversion, section: str, sources: list[dict[str, Any]]) -> None:
    """Write sources as a section of the recipe: one by its keys, several, or one with a weight, as a list."""
    if len(sources) == 1 and "weight" not in sources[0]:
        conversion.recipe[section] |= sources[0]
    elif sources:
        conversion.recipe[section]["path"] = sources
