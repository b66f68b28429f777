"""A training run for the demo: a small network in NumPy that imitates a random one."""

from collections.abc import Iterator

import numpy as np

from lossforecast.arrays import FloatArray, IntArray
from lossforecast.schedule import LRSchedule

__all__ = ["N_PARAMS", "training_losses"]

_INPUTS, _HIDDEN, _CLASSES, _BATCH = 32, 192, 16, 192
_TEACHER_HIDDEN = 16
_FADE, _FADE_SQUARES, _TINY = 0.9, 0.99, 1e-8  # of Adam

N_PARAMS = _INPUTS * _HIDDEN + _HIDDEN + _HIDDEN * _CLASSES + _CLASSES
"""Number of parameters that are trained."""


def training_losses(plan: LRSchedule, seed: int = 0) -> Iterator[float]:
    """Train with Adam, and yield the loss of each batch before its step: cross-entropy in nats.

    Args:
        plan: learning rate of every step.
        seed: of the weights and the data.
    """
    rng = np.random.default_rng(seed)
    teacher = _network(rng, _TEACHER_HIDDEN, scale=3.0)
    weights = _network(rng, _HIDDEN, scale=1.0)
    means = [np.zeros_like(weight) for weight in weights]
    squares = [np.zeros_like(weight) for weight in weights]
    for step, rate in enumerate(plan.to_array().tolist(), 1):
        inputs = rng.normal(size=(_BATCH, _INPUTS))
        _, logits = _forward(teacher, inputs)
        labels = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)  # drawn by softmax
        loss, gradients = _loss_and_gradients(weights, inputs, labels)
        yield loss
        for weight, gradient, mean, square in zip(weights, gradients, means, squares, strict=True):
            mean += (1 - _FADE) * (gradient - mean)
            square += (1 - _FADE_SQUARES) * (gradient**2 - square)
            unbiased = mean / (1 - _FADE**step)
            weight -= rate * unbiased / (np.sqrt(square / (1 - _FADE_SQUARES**step)) + _TINY)


def _network(rng: np.random.Generator, hidden: int, scale: float) -> list[FloatArray]:
    """Matrices and biases of two layers."""
    return [
        rng.normal(size=(_INPUTS, hidden)) / _INPUTS**0.5,
        np.zeros(hidden),
        scale * rng.normal(size=(hidden, _CLASSES)) / hidden**0.5,
        np.zeros(_CLASSES),
    ]


def _forward(weights: list[FloatArray], inputs: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the hidden units (batch, hidden) and the logits (batch, classes)."""
    hidden = np.tanh(inputs @ weights[0] + weights[1])
    return hidden, hidden @ weights[2] + weights[3]


def _loss_and_gradients(
    weights: list[FloatArray], inputs: FloatArray, labels: IntArray
) -> tuple[float, list[FloatArray]]:
    hidden, logits = _forward(weights, inputs)
    logits = logits - logits.max(axis=1, keepdims=True)
    chances = np.exp(logits)
    chances /= chances.sum(axis=1, keepdims=True)
    rows = np.arange(len(labels))
    loss = float(-np.log(chances[rows, labels]).mean())
    chances[rows, labels] -= 1
    of_logits = chances / len(labels)
    of_hidden = of_logits @ weights[2].T * (1 - hidden**2)
    gradients = [inputs.T @ of_hidden, of_hidden.sum(0), hidden.T @ of_logits, of_logits.sum(0)]
    return loss, gradients
