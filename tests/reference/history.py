"""The rules of `History` over lists of raw observations: slow and obvious."""

import math
from dataclasses import dataclass, field

Observation = tuple[int, float, float]  # step, loss, learning rate or nan


@dataclass
class NaiveHistory:
    max_bins: int
    width: int = 1
    last_step: int = -1
    n_non_finite: int = 0
    non_finite_run: int = 0
    bins: list[list[Observation]] = field(default_factory=list)
    events: list[int] = field(default_factory=list)
    latest_is_known: bool = False
    """Whether the latest observation is the last one of the last bin."""

    def observe(self, step: int, loss: float, lr: float | None = None) -> None:
        if step < self.last_step:  # a rewind drops every bin that touches a later step
            self.bins = [b for b in self.bins if max(s for s, _, _ in b) <= step]
            self.events = [event for event in self.events if event <= step]
            self.last_step = self.bins[-1][-1][0] if self.bins else -1
            self.latest_is_known = False
        if step == self.last_step:  # the same step again: the later value wins
            self.forget_latest()
        self.last_step = step
        if not math.isfinite(loss):
            self.n_non_finite += 1
            self.non_finite_run += 1
            self.latest_is_known = False
            return
        self.non_finite_run = 0
        while len(self.bins) == self.max_bins and not self.continues(self.bins[-1], step):
            self.coarsen()
        if not self.bins or not self.continues(self.bins[-1], step):
            self.bins.append([])
        known = lr is not None and math.isfinite(lr)
        self.bins[-1].append((step, loss, lr if lr is not None and known else math.nan))
        self.latest_is_known = True

    def forget_latest(self) -> None:
        """After a rewind the last observation of a bin of several cannot be told apart."""
        if self.bins and self.bins[-1][-1][0] == self.last_step:
            if self.latest_is_known or len(self.bins[-1]) == 1:
                self.bins[-1].pop()
            if not self.bins[-1]:
                self.bins.pop()

    def coarsen(self) -> None:
        self.width *= 2
        merged: list[list[Observation]] = []
        for group in self.bins:
            if merged and self.continues(merged[-1], group[0][0]):
                merged[-1].extend(group)
            else:
                merged.append(list(group))
        self.bins = merged

    def event(self, step: int) -> None:
        self.events = sorted({*self.events, step})[-(self.max_bins // 4) :]

    def continues(self, group: list[Observation], step: int) -> bool:
        """True if a step is in the bin of a group: no limit and no event lies between them."""
        last = group[-1][0]
        between = any(last < event <= step for event in self.events)
        return group[0][0] // self.width == step // self.width and not between

    @staticmethod
    def lr(group: list[Observation]) -> float:
        """The last learning rate known in a bin."""
        known = [lr for _, _, lr in group if not math.isnan(lr)]
        return known[-1] if known else math.nan
