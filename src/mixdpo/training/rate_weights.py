"""Weights that give a shuffled run the learning rates of a sorted one, pair by pair.

In a sorted run the hard pairs come when the schedule has decayed, so they are trained both later and less. A shuffled
run with these weights trains them as much less, and no later: what remains between the two is the order itself.
"""

from __future__ import annotations

import copy
import math

import numpy as np

from mixdpo.common.errors import InputError
from mixdpo.training.config import MixDPOConfig
from mixdpo.training.sampling import PlannedPairs
from mixdpo.training.schedule import learning_rate_factors, make_step_plan, phase_lengths


def rate_weights(pairs: PlannedPairs, args: MixDPOConfig) -> np.ndarray:
    """Return what the steps of an easy-to-hard run of the same settings would give each pair in learning rates.

    The sum over the run, for each of the places that a pair has in the shuffled run itself, divided by the mean over
    these places; float64, shape (N,), 1 for pairs that no run trains. Pairs have unequally many places where `refill`
    repeats them or the run ends within an epoch. A `length_window` longer than a step, which moves pairs between
    steps, is not looked at.

    Raises:
        InputError: that run's schedule goes by phases that it does not have (`phase_lengths`), or it is so short that
            it trains no pair of the shuffled one.
    """
    ordered = copy.copy(pairs)
    ordered.plan = pairs.plan.in_order("easy_to_hard")
    batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    steps = make_step_plan(ordered, batch, args.num_train_epochs, args.max_steps)
    epochs = math.ceil(len(steps) / math.ceil(pairs.trained_pairs / batch))
    factors = learning_rate_factors(args, phase_lengths(steps, args.phase_schedule, epochs))
    rate = np.zeros(len(pairs.plan))
    np.add.at(rate, np.concatenate(steps.rows), np.repeat(factors, steps.pairs))
    trained = np.unique(pairs.epoch_rows(0, 1))
    weight = np.ones(len(pairs.plan))
    planned = make_step_plan(pairs, batch, args.num_train_epochs, args.max_steps)
    places = np.bincount(np.concatenate(planned.rows), minlength=len(weight))[trained]
    by_place = rate[trained] / np.maximum(places, 1)
    mean = np.average(by_place, weights=places)
    if mean == 0:
        raise InputError(
            "weight rate: none of the pairs that this run trains is one that a sorted run would train",
            hint="set max_steps or num_train_epochs to an epoch or more",
        )
    weight[trained] = by_place / mean
    return weight
