"""What the commands share."""

from __future__ import annotations


def quiet_libraries() -> None:
    """Leave standard error to our own progress and warnings."""
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
