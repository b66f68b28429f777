"""Policies: rules that turn a forecast into a recommendation.

Give one or more of `target_miss`, `overfitting`, `dominated`, `worthwhile`, `no_room`, `patience`
and `reschedule` to `Forecaster.recommend` or to a callback. Runs that broke or diverged are stopped
whatever the policies; otherwise the first policy that answers decides, so list the most important
one first. While the end of a run `is_open`, the policies recommend nothing.

A policy is a function from `Situation` to `Recommendation`, or None to leave the decision to the
next one. `Outlook` and `prob_among_best` compare the runs of a sweep, `SweepErrors` corrects their
forecasts by the errors of those that have ended, and `Halving` and `Ladder` keep the best by rank.
"""

from lossforecast.policies.dominated import dominated, n_best_runs, stop_threshold
from lossforecast.policies.halving import (
    RISK_BESIDE_HALVING,
    Halving,
    Ladder,
    alike,
    halving_of,
    policies_of,
)
from lossforecast.policies.no_room import no_room
from lossforecast.policies.openness import is_open
from lossforecast.policies.overfitting import overfitting
from lossforecast.policies.patience import patience
from lossforecast.policies.ranking import Outlook, prob_among_best
from lossforecast.policies.recommend import DEFAULT_POLICIES, checked_target, policy_list, recommend
from lossforecast.policies.recommendation import (
    MAX_EARLIER_CHECKS,
    Action,
    Policy,
    Reason,
    Recommendation,
    Situation,
)
from lossforecast.policies.reschedule import reschedule
from lossforecast.policies.sweep_errors import MAX_ENDED_RUNS, Setup, SweepErrors
from lossforecast.policies.target_miss import target_miss
from lossforecast.policies.worthwhile import GAIN_PER_RUN, worthwhile

__all__ = [
    "DEFAULT_POLICIES",
    "GAIN_PER_RUN",
    "MAX_EARLIER_CHECKS",
    "MAX_ENDED_RUNS",
    "RISK_BESIDE_HALVING",
    "Action",
    "Halving",
    "Ladder",
    "Outlook",
    "Policy",
    "Reason",
    "Recommendation",
    "Setup",
    "Situation",
    "SweepErrors",
    "alike",
    "checked_target",
    "dominated",
    "halving_of",
    "is_open",
    "n_best_runs",
    "no_room",
    "overfitting",
    "patience",
    "policies_of",
    "policy_list",
    "prob_among_best",
    "recommend",
    "reschedule",
    "stop_threshold",
    "target_miss",
    "worthwhile",
]
