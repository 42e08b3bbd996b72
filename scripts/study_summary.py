"""Summary sentences of a study: what its intervals allow to say, and what may have favoured an arm."""

from __future__ import annotations

from collections.abc import Sequence

from mixdpo.study.analysis import Analysis, ArmResult, Contrast, Displacement
from mixdpo.study.study_tables import MEASURES, interval, of_gain, signed, written_p


def summary(analysis: Analysis) -> list[str]:
    """Return the findings, one sentence each: contrasts, effects, and changes of log-probability."""
    return [
        *_one_seed(analysis), *_contrasts(analysis), *_against_baseline(analysis), *_against_start(analysis),
        *_tuning(analysis), *_edges(analysis), *_displacement(analysis), *_failures(analysis),
    ]  # fmt: skip


def _one_seed(analysis: Analysis) -> list[str]:
    """Say of which arms one model only was compared: nothing is known of how models of other seeds differ."""
    compared = [arm for arm in analysis.arms if arm.against_start is not None or arm.against_baseline is not None]
    single = [
        arm
        for arm in compared
        if any(one is not None and one.seeds == 1 for one in (arm.against_start, arm.against_baseline))
    ]
    if not single:
        return []
    return [
        f"Of one seed, {_arms(single, len(compared))}: intervals and p-values speak of these trained models, not of "
        "the methods, which differ from seed to seed."
    ]


def _contrasts(analysis: Analysis) -> list[str]:
    """Say what each planned contrast came to, clear or not."""
    if not analysis.contrasts:
        return []
    what = MEASURES.get(analysis.primary, analysis.primary)
    alpha = 1 - analysis.runs["study"]["level"]
    found = []
    for one in analysis.contrasts:
        clear = "clear" if one.effect.p_adjusted < alpha else "not clear"
        share = of_gain(analysis, one.detectable)
        size = f", {share} of {analysis.baseline}'s gain" if share else ""
        found.append(
            f"**{one.name}**: {interval(one.effect)} {what}, p {_equals(written_p(one.effect.p_adjusted))}, {clear}"
            f"{_other_rates(analysis, one)}; it would find {one.detectable:.2f} with 80 % power{size}."
        )
    return found


def _other_rates(analysis: Analysis, contrast: Contrast) -> str:
    """Say to which learning rates the sides of a contrast were tuned, where these differ."""
    rates = {arm.name: arm.learning_rate for arm in analysis.arms}
    sides = [sorted({rates[name] or 0 for name in side}) for side in (contrast.arms, contrast.against)]
    if sides[0] == sides[1]:
        return ""
    tuned = " against ".join(_joined([f"{rate:g}" for rate in side]) for side in sides)
    return f" (tuned to learning rates {tuned}, which is part of it)"


def _against_baseline(analysis: Analysis) -> list[str]:
    alpha = 1 - analysis.runs["study"]["level"]
    compared = [(arm, arm.against_baseline) for arm in analysis.arms if arm.against_baseline is not None]
    if not compared:
        return []
    what = MEASURES.get(analysis.primary, analysis.primary)
    found = []
    for arm, effect in sorted(compared, key=lambda one: -one[1].estimate):
        if effect.p_adjusted < alpha:
            word = "better" if effect.estimate > 0 else "worse"
            p = written_p(effect.p_adjusted)
            found.append(
                f"**{arm.name}** is {word} than {analysis.baseline} by {interval(effect)} {what}, p {_equals(p)}."
            )
    unclear = [(arm, effect) for arm, effect in compared if effect.p_adjusted >= alpha]
    if unclear:
        widest = max(max(abs(effect.low), abs(effect.high)) for _, effect in unclear)
        rule = f"{analysis.baseline} after Holm's correction over {len(compared)} comparisons"
        names = _listed([arm.name for arm, _ in unclear])
        all_unclear = len(unclear) == len(compared) > 1
        own = next((arm.against_start for arm in analysis.arms if arm.name == analysis.baseline), None)
        share = of_gain(analysis, analysis.detectable)
        size = f", so that is {share} of its gain" if share else ", which is not clear"
        gain = f" ({analysis.baseline} itself differs from the start by {signed(own.estimate)}{size})" if own else ""
        found.append(
            (f"No arm differs clearly from {rule}." if all_unclear else f"Not clearly different from {rule}: {names}.")
            + f" The study would find an effect of {analysis.detectable:.2f} with 80 % power if one arm had it{gain}; "
            f"the intervals leave room for effects up to {widest:.2f}."
        )
    return found


def _against_start(analysis: Analysis) -> list[str]:
    alpha = 1 - analysis.runs["study"]["level"]
    trained = [(arm, arm.against_start) for arm in analysis.arms if arm.against_start is not None]
    better = [arm for arm, effect in trained if effect.p_adjusted < alpha and effect.estimate > 0]
    worse = [arm for arm, effect in trained if effect.p_adjusted < alpha and effect.estimate < 0]
    if not trained:
        return []
    neither = [arm for arm, _ in trained if arm not in better and arm not in worse]
    found = [
        f"{words} than the start: {_arms(arms, len(trained))}."
        for words, arms in (("Better", better), ("Worse", worse))
        if arms
    ]
    if neither:
        named = f"the other {len(neither)} arms" if found and len(neither) > 3 else _arms(neither, len(trained))
        found.append(f"Not clearly different from the start: {named}.")
    return found


def _tuning(analysis: Analysis) -> list[str]:
    """Say which arms were tuned to another learning rate than the baseline: part of their effect may be that."""
    rates = {arm.name: arm.learning_rate for arm in analysis.arms if arm.learning_rate is not None}
    own = rates.get(analysis.baseline)
    others = [f"**{name}** ({rate:g})" for name, rate in rates.items() if own is not None and rate != own]
    if not others:
        return []
    return [
        f"Tuned to another learning rate than {analysis.baseline} ({own:g}), which may be chance and is part of their "
        f"effect: {_joined(others)}."
    ]


def _edges(analysis: Analysis) -> list[str]:
    """Say which arms were tuned to the lowest or the highest learning rate tried: another one may be better still."""
    study = analysis.runs["study"]
    rates = {
        one["name"]: (study["arms"][one["arm"]]["tuning"] or study["tuning"])["learning_rate"]
        for one in analysis.runs.get("arms", ())
    }
    tuned = [arm for arm in analysis.arms if arm.learning_rate is not None and len(set(rates.get(arm.name, ()))) > 1]
    edge = [arm for arm in tuned if arm.learning_rate in (min(rates[arm.name]), max(rates[arm.name]))]
    if not edge:
        return []
    named = _arms(edge, len(tuned))
    return [f"Tuned to the lowest or the highest learning rate tried, beyond which a better one may lie: {named}."]


def _displacement(analysis: Analysis) -> list[str]:
    """Say of each bucket in how many arms chosen answers became less likely, and in which the most: no verdict."""
    found = []
    alpha = 1 - analysis.runs["study"]["level"]
    for bucket in dict.fromkeys(one.bucket for one in analysis.displacement):
        here = [one for one in analysis.displacement if one.bucket == bucket]
        clear = [one.chosen.estimate for one in here if one.chosen.p_adjusted < alpha]
        fell, rose = sum(moved < 0 for moved in clear), sum(moved > 0 for moved in clear)
        most: Displacement = min(here, key=lambda one: one.chosen.estimate)
        named = "tied" if bucket == "tie" else bucket
        found.append(
            f"Log-probability of chosen answers, {named} held-out pairs ({most.pairs}): it clearly fell in {fell} of "
            f"{len(here)} arms and clearly rose in {rose}; the lowest change is {interval(most.chosen, 1)} nats in "
            f"{most.arm}."
        )
    return found


def _failures(analysis: Analysis) -> list[str]:
    """Say what failed, and what of the study is missing for it."""
    failed = {run["key"]: run for run in analysis.runs["runs"] if run["failure"] is not None}
    if not failed:
        return []
    trials = sum(run["stage"] == "tune" for run in failed.values())
    sentences = [f"{len(failed)} runs failed, {trials} of them trials; they are in the list of runs."]
    untuned = [arm for arm in analysis.arms if arm.trials_failed and arm.learning_rate is None]
    missing = [
        name
        for name in analysis.runs["study"].get("contrasts", {})
        if name not in {c.name for c in analysis.contrasts}
    ]
    unequal = [arm for arm in analysis.arms if arm.trials_failed and arm.learning_rate is not None]
    for words, names in (
        ("Not run, since a trial of every setting failed", [arm.name for arm in untuned]),
        (
            "Without a finished run nothing is compared with the baseline",
            [a.name for a in analysis.arms if a.name == analysis.baseline and not a.seeds],
        ),
        ("Contrasts that lack an arm", missing),
        ("Tuned by fewer trials than the others", [arm.name for arm in unequal]),
        (
            "Compared on the seeds that finished, which may favour them",
            [arm.name for arm in analysis.arms if arm.failed],
        ),
    ):
        if names:
            sentences.append(f"{words}: {_listed(names)}.")
    return sentences


def _arms(arms: Sequence[ArmResult], count: int) -> str:
    return f"all {count} arms" if len(arms) == count > 1 else _listed([arm.name for arm in arms])


def _listed(names: Sequence[str]) -> str:
    return _joined([f"**{name}**" for name in names])  # names may hold commas


def _joined(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _equals(p: str) -> str:
    return p if p.startswith("<") else f"= {p}"
