"""The audit: what is known of the pairs is gathered once, then every check of the table looks at it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from shlex import quote
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from datasets import Dataset

from mixdpo.auditing.audit_data import AuditData, margins_of, metric_of, scores_of
from mixdpo.auditing.audit_settings import AuditSettings
from mixdpo.auditing.checks import CHECKS, FINDING_TYPES
from mixdpo.auditing.examples import choose_examples, show
from mixdpo.auditing.findings import flagged_finding, most_important
from mixdpo.auditing.leakage import read_evaluation_prompts
from mixdpo.auditing.next_steps import next_steps
from mixdpo.auditing.page_rows import page_rows
from mixdpo.auditing.repairs import advised_repairs
from mixdpo.auditing.report import AuditReport
from mixdpo.auditing.surface import surface_features
from mixdpo.auditing.texts import stored_column
from mixdpo.auditing.token_facts import token_facts
from mixdpo.data.arrays import data_fingerprint, origins
from mixdpo.data.data_settings import TokenSettings
from mixdpo.data.load_report import LoadReport
from mixdpo.pairs.quality import quality_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from mixdpo.data.pair_dataset import PairDataset


def audit(
    dataset: PairDataset,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    token_settings: TokenSettings | None = None,
    against: Sequence[str] = (),
    load_report: LoadReport | None = None,
    settings: AuditSettings | None = None,
    name: str = "DATA",
    on_command_line: str | None = None,
    report: str = "report",
) -> AuditReport:
    """Look at preference pairs before training on them.

    Args:
        dataset: pairs from `load_pairs`; every column `margin/<metric>` is looked at, and ratings if it has them.
        tokenizer: for lengths in tokens, cuts, masks and template checks; without one there are none.
        token_settings: what training tells tokenisation, such as the chat template's settings and which tokens are
            trained; default `TokenSettings()`. Its `max_length` is not read: the audit has its own.
        against: evaluation sets (files, folders or hub ids) whose prompts must not be in the data.
        load_report: what was dropped in loading, from `load_pairs_with_report`.
        settings: default `AuditSettings()`.
        name: what the data are called.
        on_command_line: words that name them there, with the options that say how they are read; default: the name.
        report: folder that the report will be saved in, for the commands that it names.

    Raises:
        InputError: the data was not made by `load_pairs`, an evaluation set cannot be read, or a setting names a
            metric that is not there.
    """
    fingerprint = data_fingerprint(dataset)
    told = token_settings or TokenSettings()
    data = _gather(dataset, tokenizer, told, against, load_report, settings or AuditSettings())
    sections = {name: check(data) for name, check in CHECKS.items()}
    found = {name: one for section in sections.values() for name, one in section.flagged.items()}
    flagged = {name: found[name] for name in FINDING_TYPES if name in found}
    flags = {name: one.group for name, one in flagged.items()}

    words = quote(name) if on_command_line is None else on_command_line
    command = f"mixdpo clean {words}" + (f" --report {quote(report)}" if report != "report" else "")
    findings = [flagged_finding(kind, FINDING_TYPES[kind], one, command) for kind, one in flagged.items()]
    findings += [finding for section in sections.values() for finding in section.findings]
    important = most_important([finding for finding in findings if finding is not None])
    advice, repairs = advised_repairs(important, flags, command)

    shown = choose_examples(flags, _buckets(data.margin, len(dataset)), data.settings.examples, data.rng(5))
    numbers = {f"margin/{metric}": values for metric, values in data.margins.items()}
    if data.scores is not None:
        numbers |= {"score_chosen": data.scores[0], "score_rejected": data.scores[1]}
    places = pl.DataFrame(origins(dataset))
    notes = {row: note for section in sections.values() for row, note in section.notes.items()}
    return AuditReport(
        name=name,
        fingerprint=fingerprint,
        figures={name: section.figures for name, section in sections.items()},
        findings=advice,
        repairs=repairs,
        next_steps=next_steps(words, repairs, data.metric, sections["advice"].figures),
        flags=flags,
        origins=places,
        rows=page_rows(dataset, flags, places),
        examples=show(dataset, shown, numbers, notes),
        token_examples=[] if data.tokens is None else data.tokens.examples,
        settings=asdict(data.settings),
    )


def _gather(
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase | None,
    told: TokenSettings,
    against: Sequence[str],
    load_report: LoadReport | None,
    settings: AuditSettings,
) -> AuditData:
    """Read and count what the checks need, what may be refused first."""
    evaluations = {path: read_evaluation_prompts(path) for path in against}
    margins = margins_of(dataset)
    metric = metric_of(margins, settings.metric)
    features = surface_features(dataset, tokenizer.all_special_tokens if tokenizer is not None else ())
    tokens = None
    if tokenizer is not None:
        tokens = token_facts(dataset, tokenizer, settings, told, np.random.default_rng([settings.seed, 2]))
    return AuditData(
        pairs=dataset,
        features=features,
        margins=margins,
        metric=metric,
        scores=scores_of(dataset),
        qualities=quality_of(dataset),
        sources=stored_column(dataset, "source") if "source" in dataset.column_names else None,
        evaluations=evaluations,
        tokens=tokens,
        load_report=load_report,
        settings=settings,
    )


def _buckets(margin: np.ndarray | None, n: int) -> dict[str, np.ndarray]:
    """Return the rows of the thirds by margin; all rows as `any` without margins."""
    if margin is None or not np.isfinite(margin).any():
        return {"any": np.arange(n)}
    rows = np.flatnonzero(np.isfinite(margin))
    rows = rows[np.argsort(-margin[rows], kind="stable")]
    return dict(zip(("easy", "middle", "hard"), np.array_split(rows, 3), strict=True))
