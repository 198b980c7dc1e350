"""A notebook declares, runs and looks at the result, without a project file and without a command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from shop import PROJECT


def test_cells_that_declare_a_project_can_run_it(shop: Path) -> None:
    (shop / "project.py").unlink()
    cells = (
        PROJECT
        + """
report = ms.run(shop)
assert (report.outcome, report.version) == ("released", 1), report
assert ms.run(shop, "buyer").outcome == "unchanged"
print(report.metrics["roc_auc"])
"""
    )
    (shop / "cells.py").write_text(cells)
    known = {name: value for name, value in os.environ.items() if not name.startswith("MAINSPRING_")}
    done = subprocess.run(
        [sys.executable, "cells.py"], cwd=shop, env=known, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) > 0.7


def test_an_error_in_a_notebook_is_the_same_error(shop: Path) -> None:
    (shop / "cells.py").write_text(PROJECT.replace('visits["bought"]', 'visits["bougt"]') + "\nms.run(shop)\n")
    known = {name: value for name, value in os.environ.items() if not name.startswith("MAINSPRING_")}
    done = subprocess.run(
        [sys.executable, "cells.py"], cwd=shop, env=known, capture_output=True, text=True, check=False
    )
    assert 'the nearest name is "bought"' in done.stderr
