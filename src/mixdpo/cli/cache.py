"""The command `cache`."""

from __future__ import annotations

import time

import click

from mixdpo.common.cache import CacheEntry, bytes_of, cache_entries, cache_limit, prune, shown_size
from mixdpo.common.files import cache_folder
from mixdpo.common.tables import plain_console, results_table


@click.command()
@click.option(
    "--prune", "pruned", is_flag=True, help="Delete what was not used for the longest time, down to --limit."
)
@click.option("--limit", metavar="SIZE", help="Size such as 20GB. Default: MIXDPO_CACHE_LIMIT, else 50GB.")
def cache(pruned: bool, limit: str | None) -> None:
    """Show what is kept between runs in MIXDPO_CACHE (default ~/.cache/mixdpo), by kind; or prune it.

    Only what can be made again is pruned, and nothing that a running command uses; replies and answers of models stay.
    """
    if limit is not None and not pruned:
        raise click.UsageError("--limit says how far --prune goes; give both.")
    if pruned:
        allowed = cache_limit() if limit is None else bytes_of(limit, "--limit")
        if allowed is not None:
            click.echo(pruned_line(prune(allowed)) or "nothing to prune")
    entries = cache_entries()
    table = results_table(f"cache: {cache_folder()}", "kind", "entries", "files", "size", "last used", "pruned")
    for kind in sorted({entry.kind for entry in entries}):
        group = [entry for entry in entries if entry.kind == kind]
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(max(entry.used for entry in group)))
        files, size = sum(entry.files for entry in group), sum(entry.size for entry in group)
        prunable = "yes" if any(entry.prunable for entry in group) else "no"
        table.add_row(kind, f"{len(group):,}", f"{files:,}", shown_size(size), used, prunable)
    plain_console().print(table)
    allowed = cache_limit()
    total, most = sum(entry.size for entry in entries), "none" if allowed is None else shown_size(allowed)
    click.echo(f"{shown_size(total)} in all; limit of what is pruned: {most} (MIXDPO_CACHE_LIMIT)")


def pruned_line(deleted: list[CacheEntry]) -> str | None:
    """Return the line that says what was deleted, None for nothing."""
    if not deleted:
        return None
    size = shown_size(sum(entry.size for entry in deleted))
    entries = "1 entry" if len(deleted) == 1 else f"{len(deleted):,} entries"
    return f"cache: deleted {entries} ({size}), the least recently used, to keep within its limit"
