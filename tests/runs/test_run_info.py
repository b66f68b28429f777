"""The description of a run, and the kind that follows from it."""

from typing import Any

import pytest

from lossforecast import ConfigurationError, RunInfo
from lossforecast.runs import RunKind


@pytest.mark.parametrize(
    ("task", "language"),
    [
        ("language modelling", True),
        ("Masked language model", False),
        ("LM", True),
        ("llm-pretraining", True),
        ("fine-tuning a language model", False),
        ("LLM SFT", False),
        ("image classification", False),
        ("text classification", False),
        ("film", False),
        ("", False),
        (None, False),
    ],
)
def test_a_language_model_is_declared_by_its_task(task: str | None, language: bool) -> None:
    assert RunInfo(task=task).is_language_model is language


@pytest.mark.parametrize(
    ("task", "n_params", "kind"),
    [
        ("language modelling", None, RunKind.LARGE_LANGUAGE_MODEL),
        ("language modelling", 124_000_000, RunKind.LARGE_LANGUAGE_MODEL),
        ("language modelling", 1_000_000, RunKind.SMALL_MODEL),
        ("image classification", 1_000_000, RunKind.SMALL_MODEL),
        (None, 1_000_000, RunKind.SMALL_MODEL),
        (None, 25_000_000, RunKind.OTHER),
        (None, None, RunKind.OTHER),
        ("fine-tuning a language model", 7_000_000_000, RunKind.OTHER),
    ],
)
def test_the_kind_follows_from_task_and_size(
    task: str | None, n_params: float | None, kind: RunKind
) -> None:
    assert RunInfo(task=task, n_params=n_params).kind is kind


@pytest.mark.parametrize("given", [0, -1, float("nan"), float("inf"), "many", True])
def test_an_epoch_has_steps(given: Any) -> None:
    assert RunInfo(steps_per_epoch=405.5).steps_per_epoch == 405.5
    with pytest.raises(ConfigurationError, match="steps_per_epoch"):
        RunInfo(steps_per_epoch=given)
