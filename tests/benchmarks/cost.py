"""Costs of forecasts, as ratios to named baselines of the same run: `make bench`.

python tests/benchmarks/cost.py --json bench.json

Prints a table, writes it as JSON, compares it with the recorded one and lists what became slower by
more than 20%; the exit code then is 1. `--record` replaces what is recorded of the same groups.
"""

import argparse
import logging
import os
import platform
import sys
import time
import warnings
from importlib import import_module
from pathlib import Path

import torch

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1] / "examples")]

from cost_table import Ratio, ratios_from, ratios_to, slower, table  # noqa: E402

RECORDED = HERE / "results" / "cost.json"
SHORT = 0.05  # of the steps and calls of the full benchmark

GROUPS = {
    "plain": "cost_loops.plain_loop",
    "lightning": "cost_frameworks.lightning_trainer",
    "transformers": "cost_frameworks.transformers_trainer",
    "network": "cost_loops.network",
    "study": "cost_frameworks.study",
    "gpt": "cost_loops.small_gpt",
    "checks": "cost_parts.checks",
    "multi-power": "cost_parts.multi_power",
    "start": "cost_parts.start_of_a_run",
    "import": "cost_parts.imports",
    "memory": "cost_parts.memory",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS), metavar="GROUP")
    parser.add_argument("--short", action="store_true", help="a twentieth of the steps")
    parser.add_argument("--json", type=Path, help="where to write the ratios")
    parser.add_argument("--recorded", type=Path, default=RECORDED, help="what to compare with")
    parser.add_argument("--record", action="store_true", help="replace what is recorded")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    ratios = list[Ratio]()
    for name in args.only:
        since = time.monotonic()
        module, function = GROUPS[name].split(".")  # frameworks are loaded where they are measured
        ratios += getattr(import_module(module), function)(SHORT if args.short else 1.0)
        sys.stderr.write(f"{name}: {time.monotonic() - since:.0f} s\n")
    used = sum(os.times()[:4])  # of this process and of the finished ones that it started
    recorded = ratios_from(args.recorded)
    sys.stdout.write(f"{table(ratios, recorded)}{used:.0f} seconds of CPU time\n")
    facts = {
        "cores": os.cpu_count(),
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if args.json is not None:
        ratios_to(args.json, ratios, cpu_seconds=round(used), **facts)
    if args.record:
        measured = {ratio.key for ratio in ratios}
        others = [ratio for ratio in recorded if ratio.key not in measured]
        ratios_to(args.recorded, others + ratios, **facts)
        return 0
    worse = slower(ratios, recorded)
    for ratio in worse:
        sys.stdout.write(f"slower: {ratio.key}: {ratio.value:.3g}\n")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
