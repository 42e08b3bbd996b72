"""Preference metrics of a model on held-out pairs, by the packed forward passes of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mixdpo.common.errors import InputError
from mixdpo.common.files import atomic_path, digest
from mixdpo.common.settings import check_ranges
from mixdpo.common.table_files import read_json_rows, read_table
from mixdpo.common.tables import TextTable, interval_text, value_text
from mixdpo.data.data_settings import DataSettings
from mixdpo.evaluation.benchmark import MeasuredBenchmark, MetricNames, Record, Say, Scored
from mixdpo.evaluation.items import ModelItems
from mixdpo.evaluation.statistics.preference_metrics import PairValues, summarise_pairs
from mixdpo.models.forward_settings import ForwardSettings
from mixdpo.models.model_settings import ModelSettings, model_name
from mixdpo.plan.plan_settings import BUCKETS

if TYPE_CHECKING:  # PyTorch and datasets take seconds, and help and stored results need neither
    from datasets import Dataset


_SIDES: Final = tuple(enumerate(("chosen", "rejected")))
_AS_ITEMS: Final = ("accuracy", "per_token_accuracy")


@dataclass(frozen=True, kw_only=True)
class PreferenceOptions:
    """Which pairs are measured under which model; fields with a `section` are read from a recipe, as in training."""

    pairs: DataSettings = field(metadata={"section": "eval_data"})
    model: ModelSettings = field(metadata={"section": "model"})
    train: Mapping[str, Any] = field(default_factory=dict, metadata={"section": "train"})
    adapter: str | None = field(default=None, metadata={"help": "folder or hub id of a trained adapter on the model"})
    reference: str | None = field(
        default=None,
        metadata={"help": "what it was trained from; without it only the ranking by likelihood is measured"},
    )
    beta: float | None = field(
        default=None,
        metadata={"help": "of the implicit reward, per nat; default: train.beta, else 0.1", "above": 0},
    )
    metric: str | None = field(
        default=None,
        metadata={"help": "buckets are thirds of margin/METRIC; default: rating where DATA has scores"},
    )
    batch_size: int = field(default=8, metadata={"help": "pairs at once", "at_least": 1})

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class PreferenceResult:
    """What was measured: means with intervals, and the table of every pair.

    Attributes:
        summary: see `summarise_pairs`.
        pairs: `pair_id`, `prompt_id`, `bucket` and `margin` (null without margins), log-probabilities `chosen`
            and `rejected` in nats, their tokens, those of the reference `ref_chosen` and `ref_rejected` where there
            is one, and every metric.
    """

    summary: dict[str, Any]
    pairs: pa.Table


def measure(options: PreferenceOptions, output: Path, say: Say) -> Scored:
    """Measure a model, and write the table of every pair beside the result.

    Raises:
        InputError: the pairs or the models cannot be read, or see `measure_preferences`.
    """
    from mixdpo.data.arrays import data_fingerprint
    from mixdpo.difficulty.scored_pairs import load_pairs_with_report

    pairs, report = load_pairs_with_report(options.pairs)
    for line in report.lines():
        say(line)
    of_training = [f.name for f in fields(ForwardSettings) if "recipe" in f.metadata and f.name in options.train]
    passes = ForwardSettings(batch_size=options.batch_size, **{name: options.train[name] for name in of_training})
    beta = options.beta or options.train.get("beta", 0.1)
    model = replace(options.model, adapter=options.adapter) if options.adapter else options.model
    reference = None
    if options.reference is not None:
        reference = replace(model, name_or_path=options.reference, revision=None, adapter=None)
    measured = measure_preferences(pairs, model, reference, beta=beta, metric=options.metric, settings=passes)
    name = model_name(model.adapter or model.name_or_path)
    file = output.with_name(f"{output.stem}.pairs.parquet")
    with atomic_path(file) as temporary:
        pq.write_table(measured.pairs.add_column(0, "model", [[name] * len(pairs)]), temporary)
    columns = {
        metric: measured.pairs[metric].to_numpy() for metric in _AS_ITEMS if metric in measured.pairs.schema.names
    }
    ids = (measured.pairs[column].to_pylist() for column in ("pair_id", "prompt_id"))
    return Scored(
        models={name: measured.summary},
        items={name: pair_items(columns, *ids)},
        settings={
            "data": options.pairs.path, "fingerprint": data_fingerprint(pairs), "model": model.name_or_path,
            "adapter": model.adapter, "reference": options.reference, "beta": beta, "metric": options.metric,
            "chat_template_kwargs": model.chat_template_kwargs, "template_date": model.template_date,
            **asdict(passes),
        },
        others={"pairs": file.name},
    )  # fmt: skip


def pair_items(columns: Mapping[str, np.ndarray], pair_ids: Sequence[str], prompt_ids: Sequence[str]) -> ModelItems:
    """Return the shares among metrics by pair, in percent; pairs of one prompt are a group."""
    scores = {
        name: dict(zip(pair_ids, (100.0 * values).tolist(), strict=True))
        for name, values in columns.items()
        if name in _AS_ITEMS
    }
    return ModelItems(scores, groups=dict(zip(pair_ids, prompt_ids, strict=True)))


def measure_preferences(
    pairs: Dataset,
    model: ModelSettings,
    reference: ModelSettings | None = None,
    *,
    beta: float = 0.1,
    metric: str | None = None,
    settings: ForwardSettings | None = None,
    seed: int = 0,
) -> PreferenceResult:
    """Measure how a model ranks pairs it was not trained on.

    What either model gave for a pair stays in the cache that training and `mixdpo score` use.

    Args:
        pairs: from `load_pairs`.
        model: the policy.
        reference: what it was trained from; without one only the ranking by likelihood is measured.
        beta: of the implicit reward, per nat.
        metric: difficulty metric whose thirds are the buckets; None takes the ratings' where there are any.
        settings: limits of length, batch size and number format of the passes.
        seed: of the resamples.

    Raises:
        InputError: a pair does not fit the limits, the tokenizers differ, or there are no margins of `metric`.
    """
    from mixdpo.data.arrays import trained_counts
    from mixdpo.models.forward import all_tokens, check_same_tokens, dataset_logprobs

    settings = settings or ForwardSettings()
    if reference is not None:
        check_same_tokens(model, reference, "the reference")
    margin, bucket = _buckets(pairs, metric)
    tokens = all_tokens(pairs, model, settings.token_settings(), "eval preferences")
    values = PairValues(
        policy=dataset_logprobs(tokens, model, settings, "policy"),
        tokens=trained_counts(tokens),
        reference=dataset_logprobs(tokens, reference, settings, "reference") if reference is not None else None,
        beta=beta,
    )
    prompt = prompt_ids(pairs)
    columns = values.columns()
    rows_of = {name: np.flatnonzero(bucket == code) for code, name in enumerate(BUCKETS)}
    summary = summarise_pairs(columns, prompt, rows_of, seed=seed)
    sides = {"": values.policy, "ref_": values.reference}
    table = {
        "pair_id": pairs["pair_id"][:],
        "prompt_id": prompt,
        "bucket": [BUCKETS[code] if code >= 0 else None for code in bucket.tolist()],
        "margin": pa.array(margin, from_pandas=True),
        **{f"{key}{side}": v[:, i] for key, v in sides.items() if v is not None for i, side in _SIDES},
        **{f"{side}_tokens": values.tokens[:, i] for i, side in _SIDES},
        **columns,
    }
    return PreferenceResult(summary, pa.table(table))


def prompt_ids(pairs: Dataset) -> np.ndarray:
    """Return a digest of each pair's prompt, text, shape (N,): pairs of one prompt belong together."""
    from mixdpo.data.messages import canonical

    return np.array([digest([canonical(prompt)], size=10) for prompt in pairs["prompt"][:]])


def _buckets(pairs: Dataset, metric: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Return margins (NaN without) and the code of each pair's bucket (-1 without)."""
    from mixdpo.data.arrays import float_column
    from mixdpo.difficulty.metrics import add_margins
    from mixdpo.difficulty.rating import RatingSettings
    from mixdpo.plan.make_plan import make_plan
    from mixdpo.plan.plan_settings import PlanSettings

    if metric is None:
        if not {"score_chosen", "margin", "margin/rating"} & set(pairs.column_names):
            return np.full(len(pairs), np.nan), np.full(len(pairs), -1)
        metric = "rating"
    if f"margin/{metric}" not in pairs.column_names:
        if metric != "rating":
            raise InputError(
                f"the data has no column 'margin/{metric}'", hint=f"compute it with mixdpo score --metric {metric}"
            )
        pairs = add_margins(pairs, {"rating": RatingSettings()})
    plan = make_plan(pairs, settings=PlanSettings(metric=metric, order="as_is", threshold=None))
    return float_column(pairs, f"margin/{metric}"), plan.bucket.astype(np.int64)


def in_folder(folder: Path) -> Scored | None:
    """Return the metrics of a run's last evaluation, from the record of every pair."""
    steps = {int(path.stem.rpartition("-")[2]): path for path in (folder / "records").glob("eval-step-*.parquet")}
    if not steps or not (folder / "run.json").is_file():
        return None
    beta = (read_json_rows(folder / "run.json")[0].get("settings") or {}).get("beta")
    if not isinstance(beta, int | float):
        return None
    table = read_table(steps[max(steps)])
    policy, reference, tokens = (
        np.stack([table.numbers(name.format(side)) for _, side in _SIDES], axis=1)
        for name in ("{}", "ref_{}", "{}_tokens")
    )
    known = reference if np.isfinite(reference).all() else None
    columns = PairValues(policy=policy, tokens=tokens, reference=known, beta=float(beta)).columns()
    prompts, bucket = np.array(table.texts("prompt_id")), np.array(table.column("bucket"))
    rows_of = {name: np.flatnonzero(bucket == name) for name in BUCKETS}
    return Scored(
        models={folder.name: summarise_pairs(columns, prompts, rows_of)},
        items={folder.name: pair_items(columns, table.texts("pair_id"), prompts.tolist())},
        settings={"beta": float(beta)},
    )


def _table(record: Record) -> TextTable:
    ((name, summary),) = record["models"].items()
    parts = summary.get("buckets", {})
    rows = [
        [
            key,
            value_text(summary[key]),
            interval_text(summary[f"{key}_interval"], 2),
            *(value_text(part[key]) for part in parts.values()),
        ]
        for key in summary
        if f"{key}_interval" in summary
    ]
    rows.append(["pairs", f"{summary['n']:,}", "", *(f"{part['n']:,}" for part in parts.values())])
    title = f"preferences, {name}: {summary['n']:,} pairs"
    return TextTable(title, ["metric", "all", "95 % interval", *parts], rows)


BENCHMARK: Final = MeasuredBenchmark(
    help="""Preference metrics on held-out pairs: accuracy, margins and displacement of log-probabilities, by bucket.

    DATA is a file, folder or hub id of pairs that the model was not trained on; default: the recipe's eval_data. The
    model is named by --model, a folder or hub id, and the settings below are read as in training.
    """,
    stored_as=("preferences",),
    options=PreferenceOptions,
    metrics=MetricNames(
        headlines=("accuracy", "per_token_accuracy"),
        labels={
            "accuracy": "reward accuracy, %",
            "reward_margin": "reward margin",
            "displacement_chosen": "Δ log p chosen, nats",
            "displacement_rejected": "Δ log p rejected, nats",
            "chosen_fell": "chosen fell, %",
            "logp_accuracy": "likelihood accuracy, %",
            "per_token_accuracy": "per-token accuracy, %",
        },
    ),
    table=_table,
    measure=measure,
    in_folder=in_folder,
)
