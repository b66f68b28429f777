"""The loss laws: pure formulas over arrays, symbols as in the papers.

One family. With ``eta_i`` the learning rate of step i and ``S1(t) = eta_1 + ... + eta_t``,

    L(t) = L0 + A * S1(t)^-alpha - sum_{k<=t} (eta_{k-1} - eta_k) * B * G_k(t),    eta_0 = eta_1

and only G, the share of the effect of learning-rate step k that has arrived by step t, differs:

    annealing     G_k(t) = 1 - lambda^(t-k+1),  B = C / (1 - lambda)
                  so the sum is C * S2: Tissue et al. 2024, arXiv:2408.11029
    multi-power   G_k(t) = 1 - (1 + C eta_k^-gamma S_k(t))^-beta,  S_k(t) = eta_k + ... + eta_t
                  Luo et al. 2025, arXiv:2503.12811
    memoryless    G_k(t) = 1,  so the sum is B * (eta_1 - eta_t)
                  the starting point of the multi-power authors' fit
    power         no sum, and t in place of S1(t): the baseline that ignores the learning rate

Units: losses in the user's unit, learning rates absolute, time in optimizer steps.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike

from lossforecast.arrays import FloatArray
from lossforecast.errors import ConfigurationError

__all__ = ["LAWS", "Law", "Warmup", "annealing_area", "lr_sum", "with_warmup"]


class Warmup(StrEnum):
    """What S1 and S2 make of the warm-up."""

    AS_IS = "as_is"
    """The learning rates as they were (Luo et al. 2025)."""
    PEAK = "peak"
    """The warm-up rates replaced by the rate that ends it (Tissue et al. 2024)."""


def with_warmup(lrs: ArrayLike, warmup_steps: int, convention: Warmup | str) -> FloatArray:
    """Learning rates (n_steps,) with the first `warmup_steps` as the convention wants them."""
    if convention not in list(Warmup):
        raise ConfigurationError(
            f"unknown convention {convention!r}: one of {list(map(str, Warmup))}"
        )
    rates = np.array(lrs, dtype=np.float64)
    if convention == Warmup.PEAK and warmup_steps:
        rates[:warmup_steps] = rates[min(warmup_steps, rates.size) - 1]
    return rates


def lr_sum(lrs: ArrayLike) -> FloatArray:
    """``S1(s) = sum_{i<=s} eta_i`` for s = 1..n_steps, shape (n_steps,)."""
    return np.cumsum(np.asarray(lrs, dtype=np.float64))


def annealing_area(lrs: ArrayLike, lambda_: float) -> FloatArray:
    """``S2(s) = sum_{i<=s} m_i`` with ``m_i = lambda m_{i-1} + (eta_{i-1} - eta_i)``, m_0 = 0.

    Args:
        lrs: learning rates of steps 1..n_steps, shape (n_steps,); eta_0 is taken as eta_1.
        lambda_: decay of the momentum of annealing, in [0, 1); 0.999 in the authors' script.

    Returns:
        S2 at steps 1..n_steps, shape (n_steps,). Tissue et al. 2024, equations 1 to 3.
    """
    from scipy.signal import lfilter  # only here: loading it takes a second

    momentum = lfilter([1.0], [1.0, -lambda_], _decrements(np.asarray(lrs, dtype=np.float64)))
    return np.cumsum(momentum)


class Law(ABC):
    """One law: `loss` for whole schedules and arrays of parameters, `stream` step by step."""

    name: str
    symbols: tuple[str, ...]
    """The parameters under the paper's names, all 0 or more."""

    @abstractmethod
    def loss(self, lrs: ArrayLike, **parameters: ArrayLike) -> FloatArray:
        """Loss after each of the steps 1..n_steps, shape (..., n_steps).

        Infinite as long as every learning rate was 0, where the law has S1 (and A is not 0).

        Args:
            lrs: learning rates, shape (n_steps,).
            **parameters: the law's `symbols` (`lambda_` for lambda), each of shape (...,).

        Raises:
            ConfigurationError: a parameter is missing or foreign.
        """

    @abstractmethod
    def stream(self, lrs: Iterable[float], **parameters: float) -> Iterator[float]:
        """Loss after each learning rate, as the rates come in; one scalar per parameter."""

    def _parameters(self, given: dict[str, ArrayLike]) -> list[FloatArray]:
        wanted = [symbol.replace("lambda", "lambda_") for symbol in self.symbols]
        if set(given) != set(wanted):
            raise ConfigurationError(
                f"the {self.name} law takes {', '.join(wanted)}; got {', '.join(given) or 'none'}"
            )
        arrays = np.broadcast_arrays(*(np.asarray(given[s], dtype=float) for s in wanted))
        return [array[..., np.newaxis] for array in arrays]


class _Annealing(Law):
    name = "annealing"
    symbols = ("L0", "A", "alpha", "C", "lambda")

    def loss(self, lrs: ArrayLike, **parameters: ArrayLike) -> FloatArray:
        L0, A, alpha, C, lambda_ = self._parameters(parameters)
        distinct, where = np.unique(lambda_[..., 0], return_inverse=True)
        areas = np.stack([annealing_area(lrs, value) for value in distinct])
        S2 = areas[where.reshape(lambda_.shape[:-1])]
        return L0 + _power_term(A, lr_sum(lrs), alpha) - C * S2

    def stream(self, lrs: Iterable[float], **parameters: float) -> Iterator[float]:
        L0, A, alpha, C, lambda_ = (float(p[0]) for p in self._parameters({**parameters}))
        S1 = S2 = momentum = 0.0
        before: float | None = None
        for lr in lrs:
            momentum = lambda_ * momentum + (0.0 if before is None else before - lr)
            S1, S2, before = S1 + lr, S2 + momentum, lr
            yield float(L0 + _power_term(A, S1, alpha) - C * S2)


class _MultiPower(Law):
    name = "multi-power"
    symbols = ("L0", "A", "alpha", "B", "C", "beta", "gamma")

    def loss(self, lrs: ArrayLike, **parameters: ArrayLike) -> FloatArray:
        L0, A, alpha, B, C, beta, gamma = self._parameters(parameters)
        rates = np.asarray(lrs, dtype=np.float64)
        S1, steps = lr_sum(rates), _decrements(rates)
        drop = np.zeros(np.broadcast_shapes(L0.shape, S1.shape))
        for k in np.flatnonzero(steps):
            travelled = S1[k:] - S1[k - 1]
            drop[..., k:] += steps[k] * _power_share(travelled, rates[k], C, beta, gamma)
        return L0 + _power_term(A, S1, alpha) - B * drop

    def stream(self, lrs: Iterable[float], **parameters: float) -> Iterator[float]:
        L0, A, alpha, B, C, beta, gamma = (float(p[0]) for p in self._parameters({**parameters}))
        S1, before = 0.0, None
        steps: list[tuple[float, float, float]] = []  # decrement, rate after it, S1 before it
        for lr in lrs:
            if before is not None and lr != before:
                steps.append((before - lr, lr, S1))
            S1, before = S1 + lr, lr
            drop = 0.0
            if steps:
                decrement, rate, start = np.array(steps).T
                drop = float(decrement @ _power_share(S1 - start, rate, C, beta, gamma))
            yield float(L0 + _power_term(A, S1, alpha) - B * drop)


class _Memoryless(Law):
    name = "memoryless"
    symbols = ("L0", "A", "alpha", "B")

    def loss(self, lrs: ArrayLike, **parameters: ArrayLike) -> FloatArray:
        L0, A, alpha, B = self._parameters(parameters)
        rates = np.asarray(lrs, dtype=np.float64)
        return L0 + _power_term(A, lr_sum(rates), alpha) - B * (rates[:1] - rates)

    def stream(self, lrs: Iterable[float], **parameters: float) -> Iterator[float]:
        L0, A, alpha, B = (float(p[0]) for p in self._parameters({**parameters}))
        S1, first = 0.0, None
        for lr in lrs:
            first = lr if first is None else first
            S1 += lr
            yield float(L0 + _power_term(A, S1, alpha) - B * (first - lr))


class _Power(Law):
    name = "power"
    symbols = ("L0", "A", "alpha")

    def loss(self, lrs: ArrayLike, **parameters: ArrayLike) -> FloatArray:
        L0, A, alpha = self._parameters(parameters)
        return L0 + A * np.arange(1.0, np.size(lrs) + 1) ** -alpha

    def stream(self, lrs: Iterable[float], **parameters: float) -> Iterator[float]:
        L0, A, alpha = (float(p[0]) for p in self._parameters({**parameters}))
        for step, _ in enumerate(lrs, start=1):
            yield L0 + A * float(step) ** -alpha


LAWS: dict[str, Law] = {
    law.name: law for law in (_Annealing(), _MultiPower(), _Memoryless(), _Power())
}
"""Every law by name."""


def _decrements(rates: FloatArray) -> FloatArray:
    """``eta_{k-1} - eta_k`` for k = 1..n, 0 for the first."""
    return -np.diff(rates, prepend=rates[:1])


def _power_term(A: ArrayLike, S1: ArrayLike, alpha: ArrayLike) -> FloatArray:
    """``A S1^-alpha``; infinite as long as every rate was 0, but 0 where A is."""
    with np.errstate(divide="ignore", invalid="ignore"):
        term = np.asarray(A) * np.asarray(S1) ** -np.asarray(alpha)
    return np.where(np.asarray(A) != 0, term, 0.0)


def _power_share(
    travelled: ArrayLike, rate: ArrayLike, C: ArrayLike, beta: ArrayLike, gamma: ArrayLike
) -> FloatArray:
    """``1 - (1 + C rate^-gamma travelled)^-beta``; 0 where a factor is 0, even at rate 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = C * np.asarray(rate) ** -np.asarray(gamma) * travelled
        share = -np.expm1(-np.asarray(beta) * np.log1p(distance))
    moves = (np.asarray(travelled) > 0) & (np.asarray(C) != 0) & (np.asarray(beta) != 0)
    return np.where(moves, share, 0.0)
