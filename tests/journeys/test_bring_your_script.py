"""The five-line case: what the page adds to a script is at most five lines, takes nothing away, and is enough."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

from docs.pages import Page, read_page

from .conftest import Place

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "bring-your-script.md"


def file_of(page: Page, name: str) -> str:
    return next(block.text for block in page.blocks if block.directives.get("file") == name)


def apply(diff: str, script: str) -> tuple[str, list[str], list[str]]:
    """Return the script with the diff applied, and the lines added and removed; its one hunk must fit exactly."""
    head, *hunk = diff.splitlines()[2:]
    first, length = map(int, re.findall(r"-(\d+),(\d+)", head)[0])
    lines = script.splitlines()
    before = [line[1:] for line in hunk if not line.startswith("+")]
    after = [line[1:] for line in hunk if not line.startswith("-")]
    assert lines[first - 1 : first - 1 + length] == before
    changed = lines[: first - 1] + after + lines[first - 1 + length :]
    added = [line[1:] for line in hunk if line.startswith("+")]
    return "\n".join(changed) + "\n", added, [line for line in hunk if line.startswith("-")]


def test_a_script_becomes_a_tracked_registered_served_model_with_five_added_lines(place: Place) -> None:
    page = read_page(PAGE)
    script = file_of(page, "train.py")
    project, added, removed = apply(file_of(page, "five-lines.diff"), script)
    assert removed == []
    assert 1 <= len(added) <= 5
    assert "mainspring" not in script

    # The page's own customers, made by the lines it does not show.
    make_data = next(block.text for block in page.blocks if "hidden" in block.directives)
    code = make_data.partition("'END'\n")[2].rpartition("END\n")[0]
    subprocess.run([sys.executable, "-c", code], cwd=place.folder, check=True)
    (place.folder / "train.py").write_text(script)
    (place.folder / "project.py").write_text(project)
    said = place.script("train.py")
    assert place.script("project.py") == said, "the script says something else than before"

    trained = place.ask("run")
    assert (trained["outcome"], trained["version"]) == ("released", 1)
    assert all(verdict["passed"] for verdict in trained["verdicts"])
    assert abs(trained["metrics"]["roc_auc"] - float(said.split()[-1])) < 0.05
    run = place.ask("runs", "show", trained["run_id"])
    assert run["status"] == "SUCCEEDED"
    assert [row["version"]["version"] for row in place.ask("models", "list")] == [1]
    assert "train, version 1" in place.say("models", "card", "train@1")

    asked = next(block.text for block in page.blocks if block.text.startswith("curl"))
    rows = json.loads(shlex.split(asked)[-1])["instances"]
    with place.served() as endpoint:
        answer = endpoint.predict("train", *rows)
        assert [item["label"] for item in answer["predictions"]] == ["yes"]
        assert place.ask("why", answer["prediction_ids"][0])["agrees"] is True
