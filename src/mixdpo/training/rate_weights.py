"""Weights that give a shuffled run the learning rates of a sorted one, pair by pair.

In a sorted run the hard pairs come when the schedule has decayed, so they are trained both later and less. A shuffled
run with these weights trains them as much less, and no later: what remains between the two is the order itself.
"""

from __future__ import annotations

import copy
import math

import numpy as np

from mixdpo.training.config import MixDPOConfig
from mixdpo.training.sampling import PlannedPairs
from mixdpo.training.schedule import learning_rate_factors, make_step_plan, phase_lengths


def rate_weights(pairs: PlannedPairs, args: MixDPOConfig) -> np.ndarray:
    """Return what the steps of an easy-to-hard run of the same settings would give each pair in learning rates.

    The sum over epochs, divided by its mean over the trained pairs; float64, shape (N,), 1 for those that no run
    trains. A `length_window` longer than a step, which moves pairs between steps, is not looked at.

    Raises:
        InputError: that run's schedule goes by phases that it does not have (`phase_lengths`).
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
    weight[trained] = rate[trained] / rate[trained].mean()
    return weight
