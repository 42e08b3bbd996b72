"""What is left to run of a map, and how long that takes."""

from __future__ import annotations

from pathlib import Path
from statistics import mean

from mixdpo.common.tables import TextTable
from mixdpo.study.world.map_execution import read_results
from mixdpo.study.world.map_runs import final_count, final_runs, tuning_runs
from mixdpo.study.world.map_settings import MapSettings
from mixdpo.study.world.map_tuning import chosen_settings


def left_table(settings: MapSettings, folder: Path, processes: int) -> TextTable:
    """Return, by world, how many runs there are and are left, and the hours they take so many at once.

    A run takes the mean of those that are done; before there are any, what the map file expects, epochs counted.
    """
    done = read_results(folder)
    trials = list(tuning_runs(settings))
    known = [(run, done[key]) for run in trials if (key := run.key(settings)) in done]
    is_tuned = len(known) == len(trials)
    finals = list(final_runs(settings, chosen_settings(settings, known))) if is_tuned else []
    rows, hours = [], 0.0
    for world in settings.worlds:
        keys = {run.key(settings) for run in (*trials, *finals) if run.world == world}
        number = len(keys) if is_tuned else len(keys) + final_count(settings, world)
        left = number - len(keys & done.keys())
        took = [done[key].get("train_seconds", 0.0) + done[key]["measure_seconds"] for key in keys & done.keys()]
        each = mean(took) if took else _expected(settings, world)
        hours += 0.0 if each is None else left * each / processes / 3600
        expected = "unknown" if each is None else f"{left * each / processes / 3600:.2f}"
        rows.append((world, f"{number:,}", f"{left:,}", "unknown" if each is None else f"{each:.2f}", expected))
    rows.append(("all", "", "", "", f"{hours:.2f}"))
    headings = ("world", "runs", "left", "seconds a run", f"hours, {processes} at once")
    return TextTable(f"Runs of {settings.name}", headings, rows)


def _expected(settings: MapSettings, world: str) -> float | None:
    """Return the mean of what runs take by the map file, where those of several epochs take longer to train."""
    of_world = settings.worlds[world]
    if of_world.seconds_per_run is None:
        return None
    runs = [(cell.epochs, len(settings.arms_of(cell))) for cell in of_world.cells.values()]
    return of_world.seconds_per_run * sum(epochs * arms for epochs, arms in runs) / sum(arms for _, arms in runs)
