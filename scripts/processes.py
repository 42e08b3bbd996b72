"""Run every combination of settings on every kind of processes, and print how far each is from one process.

    python scripts/processes.py [KIND ...]

Runs on CPUs over gloo, with a tiny random model; `tests/process_kinds.py` says what the kinds and the cells are.
Prints a row per cell and kind: the largest relative difference of a step's loss, the distance of the trained weights
over the way they went, or the line that refused the run.
"""

from __future__ import annotations

import sys
import tempfile
from importlib.util import find_spec
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from process_kinds import (
    KINDS,
    OTHERS,
    REFUSED,
    Cell,
    Outcome,
    differences,
    limits,
    prepare,
    run_kinds,
    starting_weights,
)

SECONDS = 3600


def all_cells() -> dict[str, Cell]:
    """Return every combination of settings, and the cells that are not a matter of combinations."""
    combined = {
        f"{'lora' if lora else 'full'}-{'bf16' if bf16 else 'fp32'}-{engine}-{'live' if live else 'cached'}"
        f"{'-accumulated' if steps > 1 else ''}": Cell(
            lora=lora, bf16=bf16, engine=engine, live_reference=live, accumulation=steps
        )
        for lora, bf16, engine, live, steps in product(
            (False, True), (False, True), ("packed", "padded"), (False, True), (1, 2)
        )
    }
    return {**combined, **OTHERS}


def verdict(kind: str, outcome: Outcome, alone: Outcome, cell: Cell, folder: Path) -> str:
    """Return one line about a cell: how far it is from one process, or why it did not run."""
    if outcome.status == 2:
        return f"refused: {outcome.last_line}"
    if outcome.status:
        return f"FAILED ({outcome.status}): {outcome.last_line}"
    losses, weights = differences(outcome, alone, starting_weights(folder, cell))
    most_losses, most_weights = limits(kind, cell)
    equal = losses < most_losses and weights < most_weights
    return f"{'equal' if equal else 'DIFFERS'}: losses {losses:.1e}, weights {weights:.1e}"


def main(kinds: list[str]) -> None:
    """Run the table and print it as it comes."""
    has_deepspeed = find_spec("deepspeed") is not None
    kinds = kinds or [kind for kind in KINDS if kind != "one" and (has_deepspeed or not kind.startswith("zero"))]
    cells = all_cells()
    with tempfile.TemporaryDirectory() as name:
        folder = prepare(Path(name))
        alone = run_kinds({"one": cells}, folder, SECONDS)["one"]
        for kind in kinds:
            chosen = {"full-fp32-packed-cached": cells["full-fp32-packed-cached"]} if kind in REFUSED else cells
            found = run_kinds({kind: chosen}, folder, SECONDS)[kind]
            for cell, outcome in found.items():
                print(f"{kind:18} {cell:34} {verdict(kind, outcome, alone[cell], chosen[cell], folder)}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
