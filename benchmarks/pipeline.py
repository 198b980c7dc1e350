"""What a step costs beside bare DBOS, and how long a user waits for the engine's first step.

Run it: python benchmarks/pipeline.py. It prints both sides of each ratio, measured in turns in one run, and exits with
1 when a step costs more than twice DBOS's own.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROUNDS = 7
RUNS = 8
STEPS = 6
BUDGET = 2.0

BARE = """
import sys, time
from dbos import DBOS, SetWorkflowID
DBOS(config={"name": "bare", "system_database_url": "sqlite:///" + sys.argv[1] + "/bare.db", "log_level": "CRITICAL"})
@DBOS.workflow()
def chain(n):
    for i in range(n):
        DBOS.run_step({"name": f"s{i}"}, lambda: {"i": i})
DBOS.launch()
def once(n):
    chain(n)
"""
OURS = """
import sys, time
from pathlib import Path
from mainspring.core.settings import load_settings
from mainspring.orchestration.engine import Engine
from mainspring.orchestration.pipeline import Pipeline, Step
from mainspring.store.workspace import open_workspace
engine = Engine(open_workspace(load_settings(Path(sys.argv[1]), environment={})))
def once(n):
    steps = [Step(f"s{i}", lambda context, i=i: {"i": i}, after=(f"s{i-1}",) if i else ()) for i in range(n)]
    assert engine.run("bench", Pipeline("chain", tuple(steps))).succeeded
"""
LOOP = """
once(int(sys.argv[2]))
for line in sys.stdin:
    began = time.perf_counter()
    for _ in range(int(line)):
        once(int(sys.argv[2]))
    print(time.perf_counter() - began, flush=True)
"""


def warm(steps: int) -> tuple[float, float]:
    """Return the median seconds per step of both sides, which take turns so that a busy machine slows both."""
    with tempfile.TemporaryDirectory() as folder:
        sides = [
            subprocess.Popen(
                [sys.executable, "-c", program + LOOP, folder, str(steps)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )
            for program in (BARE, OURS)
        ]  # fmt: skip
        taken: list[list[float]] = [[], []]
        for _ in range(ROUNDS):
            for side, times in zip(sides, taken, strict=True):
                assert side.stdin is not None
                assert side.stdout is not None
                side.stdin.write(f"{RUNS}\n")
                side.stdin.flush()
                times.append(float(side.stdout.readline()) / (RUNS * steps))
        for side in sides:
            side.communicate()
    return statistics.median(taken[0]), statistics.median(taken[1])


def cold(program: str, *, fresh: bool) -> float:
    """Return the median seconds from starting Python to the end of a first run of six steps."""
    times = []
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(6):
            place = Path(folder) / (str(turn) if fresh else "kept")
            place.mkdir(exist_ok=True)
            began = time.perf_counter()
            ending = "\nonce(6)\nimport os\nos._exit(0)"  # what is left running ends with the process; do not time it
            subprocess.run([sys.executable, "-c", program + ending, str(place)], check=True)
            times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def main() -> int:
    worst = 0.0
    for steps in (STEPS, 50):
        bare, ours = warm(steps)
        worst = max(worst, ours / bare)
        print(
            f"{steps:3} steps per run: bare DBOS {bare * 1e3:6.2f} ms per step, Mainspring {ours * 1e3:6.2f}, "
            f"ratio {ours / bare:.2f} (budget {BUDGET:.1f})"
        )
    for name, fresh in (("first ever", True), ("next", False)):
        bare, ours = cold(BARE, fresh=fresh), cold(OURS, fresh=fresh)
        print(f"{name} process, start to end of six steps: bare DBOS {bare:.2f} s, Mainspring {ours:.2f} s")
    return int(worst > BUDGET)


if __name__ == "__main__":
    sys.exit(main())
