"""`codes`: a schedule with a new decay as code, in the forms that a script may use."""

from lossforecast.schedule import LRSchedule, code_of, few_points

__all__ = ["codes"]


def codes(schedule: LRSchedule, start: int, shape: str, now: int) -> dict[str, str]:
    """Return the code of a schedule by kind: "schedule", "begin_decay" and "torch".

    "schedule" is an expression of an `LRSchedule`. "begin_decay" is the call of a `SteerableLR` on
    its stable phase. "torch" is a scheduler that goes on after `now` steps; it needs numpy, torch
    and an optimizer whose groups have one learning rate.

    Args:
        schedule: the schedule.
        start: first step of its decay; where that is `now`, "begin_decay" starts one step later,
            because the rate of the next step is set already.
        shape: shape of the decay.
        now: optimizer steps taken.
    """
    return {
        "schedule": code_of(schedule),
        "begin_decay": _begin_decay(schedule, start, shape, now),
        "torch": _torch(schedule, now),
    }


def _begin_decay(schedule: LRSchedule, start: int, shape: str, now: int) -> str:
    total, wait = schedule.total_steps, max(start - now, 1)
    share = float(schedule.lr(total)) / schedule.peak
    length = max(total - now - wait, 1)
    return (
        f'scheduler.begin_decay({length}, "{shape}", end={share:.6g}, after={wait})'
        f"  # after step {now}"
    )


def _torch(schedule: LRSchedule, now: int) -> str:
    """Straight lines between a few points of the schedule, as shares of its peak."""
    steps, rates = few_points(schedule)
    shares = ", ".join(f"{rate / schedule.peak:.6g}" for rate in rates)
    return (
        f"steps, shares = {steps}, [{shares}]\n"
        "for group in optimizer.param_groups:\n"
        f'    group["initial_lr"] = {schedule.peak:.6g}\n'
        "scheduler = torch.optim.lr_scheduler.LambdaLR(\n"
        "    optimizer, lambda step: np.interp(step + 1, steps, shares), "
        f"last_epoch={now - 1}\n"
        ")"
    )
