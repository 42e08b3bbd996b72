"""Results side by side, in Python and in a notebook."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mixdpo.common.files import check_output_folder
from mixdpo.common.notebook import notebook_html
from mixdpo.common.tables import TextTable
from mixdpo.evaluation.compare.collect import BenchmarkResults, collect, title
from mixdpo.evaluation.compare.compare_settings import CompareSettings
from mixdpo.evaluation.compare.sentences import sentences, warnings
from mixdpo.evaluation.compare.tables import differences_table, summary_table
from mixdpo.evaluation.difference_tables import paired_method


class Comparison(tuple[BenchmarkResults, ...]):
    """The results of one benchmark after another."""

    def __repr__(self) -> str:
        return f"<Comparison: {'; '.join(f'{one.name} of ' + ', '.join(one.models) for one in self)}>"

    def _repr_html_(self) -> str:
        """Show sentences, notes and tables in a notebook."""
        return "".join(notebook_html(one.name, *sayings(one), *shown_tables(one)) for one in self)

    def save(self, folder: str | Path) -> Path:
        """Write tables, figures and `comparison.html` into a folder, and return the page's path."""
        from mixdpo.evaluation.compare.export import save_comparison  # with matplotlib

        folder = Path(folder)
        check_output_folder(folder)
        return save_comparison(self, folder)


def compare(
    sources: Iterable[str | Path], *, against: str | None = None, settings: CompareSettings | None = None
) -> Comparison:
    """Put results of `mixdpo eval` (JSON files) and runs (folders) side by side, as `mixdpo compare` does.

    Args:
        sources: files and folders.
        against: name of the model that all others are compared with; default: every two of up to six models.
        settings: all settings instead.

    Raises:
        InputError: a source holds no result, comes twice, or there is no model to compare against.
    """
    return Comparison(collect(list(sources), settings or CompareSettings(against=against)))


def sayings(results: BenchmarkResults) -> list[str]:
    """Return who wins, and what a reader must know, in sentences."""
    return [*sentences(results), *(f"note: {note}" for note in [*warnings(results), *results.notes])]


def shown_tables(results: BenchmarkResults) -> list[str | TextTable]:
    """Return the tables of differences, each with how they were tested, and the table of the models.

    One difference alone is a sentence, not a table.
    """
    several = {metric: found for metric, found in results.differences.items() if len(found) > 1}
    tables: list[str | TextTable] = []
    for metric, differences in several.items():
        tables += [
            differences_table(results, metric, differences),
            paired_method(differences, results.grouped),
        ]
    summary = summary_table(results)
    return [*tables, TextTable(title(results), summary.headings, summary.rows)]
