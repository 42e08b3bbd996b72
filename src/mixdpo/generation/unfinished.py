"""What is finished of a long evaluation, until all is."""

from __future__ import annotations

import shutil
from pathlib import Path


def unfinished(output: Path) -> Path:
    """Return the folder for what is finished of an output that is not.

    It is beside the output and goes when that is complete. A cache for all runs would not do where the key cannot
    tell that something has changed, such as the model behind a name.
    """
    return output.with_name(f"{output.name}.unfinished")


def forget_unfinished(output: Path) -> None:
    """Remove what was finished of an output that is complete now."""
    shutil.rmtree(unfinished(output), ignore_errors=True)
