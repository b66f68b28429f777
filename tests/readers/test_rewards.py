"""Losses that are objectives of reinforcement learning or of preferences say little."""

from pathlib import Path

import pytest
from support.log_files import loss_at

from lossforecast.readers import read_log

COLUMNS = [
    "loss,reward,reward_std,kl,completions/mean_length",  # GRPO of TRL
    "loss,rewards/chosen,rewards/rejected,rewards/margins,logps/chosen",  # DPO of TRL
    "loss/policy_avg,loss/value_avg,policy/approxkl_avg,objective/kl",  # PPO of TRL
    "losses/policy_loss,losses/value_loss,charts/episodic_return",  # CleanRL
    "train/loss,train/policy_gradient_loss,train/entropy_loss,rollout/ep_rew_mean",  # SB3
    "actor/pg_loss,critic/vf_loss,critic/rewards/mean",  # verl
    "loss,PolicyLoss,meanReward",
]
OTHERS = [
    "loss,val_loss,accuracy",
    "loss,forward_time,rewarm_steps",
    "train_loss,returned_rows,dport",
    "loss,repository,backward,img/s",
    "loss,actors_found",
    "loss,lr/pg0,lr/pg1",
]


@pytest.mark.parametrize(
    ("names", "told"), [(n, True) for n in COLUMNS] + [(n, False) for n in OTHERS]
)
def test_such_a_loss_is_said_to_say_little(tmp_path: Path, names: str, told: bool) -> None:
    rows = (",".join([str(i), *[str(loss_at(i))] * len(names.split(","))]) for i in range(9))
    (tmp_path / "a.csv").write_text("\n".join([f"step,{names}", *rows]) + "\n")
    log = read_log(tmp_path / "a.csv")
    notes = [note for note in log.notes if "its forecast says little" in note]
    assert [note.split(" is an ")[0] for note in notes] == [repr(log.column)] * told
