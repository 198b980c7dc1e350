"""A project file declares and does nothing else; what is wrong with it is one error at its line."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any

import pytest

import mainspring as ms
from mainspring.core.errors import Invalid, MainspringError, NotFound
from mainspring.core.settings import load_settings
from mainspring.data.datasets import ingest
from mainspring.project.definition import ColumnRef, Rest
from mainspring.project.loading import load_project
from mainspring.project.plan import apply, current, declared_parts, plan, undo
from mainspring.store.workspace import Workspace
from shop import PROJECT, visits

FULL = """
import polars as pl
import mainspring as ms

fraud = ms.Project("fraud", owner="risk-ml", oncall="#risk-oncall")

@fraud.dataset(key="tx_id", time="at", pii={"email": "drop", "card": "hash"}, schedule="0 2 * * *", retain="400d")
def payments(day: ms.Day) -> pl.DataFrame:
    return pl.read_parquet(f"raw/payments/{day}.parquet")

payments.expect(ms.check.unique("tx_id"), ms.check.between("amount", 0, 50_000), ms.check.fresh("26h"))

chargeback = fraud.labels("raw/chargebacks.parquet", key="tx_id", time="reported_at", value="is_fraud", matures="7d")

@fraud.feature(entity="card", window="7d")
def mean_amount_7d(payments): return payments.amount.mean()

@fraud.feature
def amount_ratio(request, mean_amount_7d): return request.amount / (mean_amount_7d + 1.0)

@fraud.model(predicts=chargeback, uses=[payments["amount"], mean_amount_7d, amount_ratio], metric="roc_auc",
             split=ms.by_time(test="14d"), tune={"learning_rate": (0.01, 0.3, "log"), "num_leaves": (7, 127)}, trials=20)
def scorer(X, y, learning_rate=0.1, num_leaves=31):
    from lightgbm import LGBMClassifier
    return LGBMClassifier(learning_rate=learning_rate, num_leaves=num_leaves).fit(X, y)

scorer.must(ms.gate.beats_baseline(by=0.02), ms.gate.not_worse_than_live(confidence=0.95), ms.gate.parity(),
            ms.gate.latency(p99="50ms"), ms.gate.slices("country", at_least=0.75), ms.gate.fair("gender", gap=0.10),
            ms.gate.replay("7d"), ms.gate.approved(by="approver"))
scorer.serve(ms.shadow("1d") >> ms.canary(1, 10, 50, every="1h"), abort_if=["error_rate > 0.5%", "p99 > 150ms"])
scorer.batch(schedule="0 3 * * *", to="scores/fraud.parquet")
scorer.watch(score="roc_auc >= 0.80", drift="psi > 0.1", false_alarms="1/week", heal="retrain | rollback", cooldown="1d")
"""


def _load(folder: Path, text: str) -> Any:
    (folder / "project.py").write_text(text)
    return load_project(folder / "project.py")


def test_the_full_form_is_read_without_touching_any_data(tmp_path: Path) -> None:
    spec = _load(tmp_path, FULL)
    assert [*spec.datasets, *spec.labels, *spec.features, *spec.models] == [
        "payments", "chargebacks", "mean_amount_7d", "amount_ratio", "scorer",
    ]  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "__pycache__") == ["project.py"]
    model = spec.model(None)
    assert model.uses is not None
    assert model.uses[0] == ColumnRef("payments", "amount")
    assert (model.trials, model.metric, len(model.gates)) == (20, "roc_auc", 8)
    assert model.watch is not None
    assert model.watch.heal == ("retrain", "rollback")


def test_a_project_file_that_ends_the_program_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="stops while it is read: SystemExit: 3") as refused:
        _load(tmp_path, "import sys\n\nsys.exit(3)\n")
    assert str(refused.value.where).endswith("project.py:3")


def test_what_is_not_built_is_refused_at_plan_each_with_its_own_line(
    tmp_path: Path, local_workspace: Workspace
) -> None:
    spec = _load(tmp_path, FULL)
    lines = FULL.splitlines()
    refused = {str(refusal.where).split(":")[1]: refusal.message for refusal in plan(local_workspace, spec).refusals}
    said = {lines[int(line) - 1].strip()[:24]: message for line, message in refused.items()}
    assert any("fair" in message for message in said.values())
    assert any("replay" in message for message in said.values())
    assert any("shadow" in message or "abort_if" in message or "mean_amount_7d" in message for message in said.values())
    with pytest.raises(Invalid, match="not built yet"):
        apply(local_workspace, spec)
    assert current(local_workspace, "fraud") == {}


def test_decorated_functions_stay_plain_functions(tmp_path: Path) -> None:
    (tmp_path / "project.py").write_text(PROJECT)
    namespace: dict[str, Any] = {"__file__": str(tmp_path / "project.py")}
    exec(compile(PROJECT, str(tmp_path / "project.py"), "exec"), namespace)
    buyer = namespace["buyer"]
    assert list(inspect.signature(buyer).parameters) == ["X", "y", "C"]
    fitted = buyer([[0.0, 1.0], [1.0, 0.0]], [0, 1], C=2.0)
    assert fitted.C == 2.0


def test_a_dataset_gives_its_columns_by_name_by_list_and_by_what_is_left() -> None:
    project = ms.Project("p")
    data = project.dataset("some.csv", name="d")
    assert data["a"] == ColumnRef("d", "a")
    assert data[["a", "b"]] == (ColumnRef("d", "a"), ColumnRef("d", "b"))
    assert data.without("a") == Rest("d", ("a",))


def test_the_plan_tells_what_is_new_what_changed_and_what_goes(tmp_path: Path, workspace: Workspace) -> None:
    assert {item.action for item in apply(workspace, _load(tmp_path, PROJECT)).items} == {"add"}
    assert not plan(workspace, _load(tmp_path, PROJECT)).has_changes
    changed = PROJECT.replace("C=1.0", "C=2.0").replace("value_per_page", "per_page")
    actions = {f"{i.kind}:{i.name}": (i.action, i.details) for i in plan(workspace, _load(tmp_path, changed)).items}
    assert actions["feature:per_page"][0] == "add"
    assert actions["feature:value_per_page"][0] == "remove"
    assert actions["dataset:visits"][0] == "keep"
    assert actions["model:buyer"][0] == "change"
    assert "the function's code" in actions["model:buyer"][1]


def test_labels_that_are_joined_by_a_hashed_key_are_refused(tmp_path: Path, local_workspace: Workspace) -> None:
    hashed = BASE.replace("pii={}", 'pii={"id": "hash"}')
    refused = [refusal.message for refusal in plan(local_workspace, _load(tmp_path, hashed)).refusals]
    assert any("keeps a hash" in message for message in refused)


def test_moving_and_commenting_code_is_no_change(tmp_path: Path, workspace: Workspace) -> None:
    apply(workspace, _load(tmp_path, PROJECT))
    moved = PROJECT.replace("@shop.model", "\n\n# a remark\n@shop.model").replace(
        "    return Log", "    # why\n    return Log"
    )
    assert not plan(workspace, _load(tmp_path, moved)).has_changes


@pytest.mark.parametrize(
    ("before", "after", "line"),
    [
        ('visits["bought"]', 'visits["bougt"]', 'visits["bougt"]'),
        ('visits["pages"],', 'visits["pagse"],', 'visits["pagse"]'),
        ('uses=[visits["basket"], visits["pages"]', 'uses=[\n    visits.without("baskt")', "uses=["),
    ],
)
def test_a_column_that_the_newest_version_lacks_is_refused_at_plan_with_the_nearest(
    tmp_path: Path, local_workspace: Workspace, before: str, after: str, line: str
) -> None:
    visits(40).write_csv(tmp_path / "visits.csv")
    changed = PROJECT.replace(before, after)
    assert not plan(local_workspace, _load(tmp_path, changed)).refusals  # never read: nothing is known of its columns
    ingest(local_workspace, "shop", _load(tmp_path, PROJECT).dataset("visits"))
    assert not plan(local_workspace, _load(tmp_path, PROJECT)).refusals
    (refusal,) = plan(local_workspace, _load(tmp_path, changed)).refusals
    assert "dataset 'visits' has no column" in refusal.message
    assert "the nearest name is" in refusal.message
    assert line in changed.splitlines()[refusal.where.line - 1]
    assert "mainspring data ingest visits" in refusal.hint


def test_undo_brings_back_the_declaration_before(tmp_path: Path, workspace: Workspace, clock: Any) -> None:
    first = _load(tmp_path, PROJECT)
    apply(workspace, first)
    clock.sleep(1)
    apply(workspace, _load(tmp_path, PROJECT.replace("buyer.serve()", 'buyer.batch(to="a.csv", schedule="0 3 * * *")')))
    undo(workspace, "shop")
    assert current(workspace, "shop") == declared_parts(first)
    with pytest.raises(MainspringError):
        undo(workspace, "shop")


def test_every_option_of_every_declaration_has_an_effect_or_is_refused(
    tmp_path: Path, local_workspace: Workspace
) -> None:
    """Walk the parameters of the API: a changed option must change the plan or be refused."""
    base = declared_parts(_load(tmp_path, BASE))
    tried = set()
    for (method, option), (before, after) in OPTIONS.items():
        assert before in BASE, f"{method}({option}=): {before!r} is not in the example"
        tried.add((method, option))
        try:
            spec = _load(tmp_path, BASE.replace(before, after, 1))
        except Invalid:
            continue
        is_refused = bool(plan(local_workspace, spec).refusals)
        assert is_refused or declared_parts(spec) != base, f"{method}({option}=) changes nothing"
    import mainspring.project.handles as handles

    methods = {"dataset": ms.Project.dataset, "labels": ms.Project.labels, "feature": ms.Project.feature, "model": ms.Project.model,
               "serve": handles.Model.serve, "batch": handles.Model.batch, "watch": handles.Model.watch, "Project": ms.Project.__init__}  # fmt: skip
    declared = {
        (name, parameter)
        for name, method in methods.items()
        for parameter in inspect.signature(method).parameters
        if parameter not in ("self", "function")
    }
    assert declared == tried


BASE = """
import mainspring as ms

p = ms.Project("p", owner="a", oncall="b")
rows = p.dataset("rows.csv", name="rows", key="id", time="at", pii={}, columns=None, read=None, schedule=None, zone="UTC",
                 start=None, retain=None, on_bad="fail")
out = p.labels("out.csv", key="id", value="v", time="t", matures="1d", absent=None, name="out", columns=None, read={})

@p.feature
def twice(request): return request.a * 2

@p.feature(entity="id", window="7d")
def recent(rows): return rows.a.mean()

@p.model(predicts=out, uses=[rows["a"], twice], metric="roc_auc", task="binary", positive=1, split=None, tune=None, trials=None,
         seed=0, schedule=None, zone="UTC", on=(), trust_pickle=False)
def m(X, y, depth=3): return None

m.serve(None, abort_if=[])
m.batch(to="a.csv", schedule=None, zone="UTC", of=None)
m.watch(score=[], drift=None, alert_if=[], every="1h", false_alarms="1/week", heal="", cooldown="1d", min_rows=200)
"""

OPTIONS = {
    ("Project", "name"): ('Project("p"', 'Project("q"'),
    ("Project", "owner"): ('owner="a"', 'owner="c"'),
    ("Project", "oncall"): ('oncall="b"', 'oncall="c"'),
    ("dataset", "source"): ('"rows.csv"', '"other.csv"'),
    ("dataset", "name"): ('name="rows"', 'name="lines"'),
    ("dataset", "key"): ('key="id", time="at"', 'key="other", time="at"'),
    ("dataset", "time"): ('time="at"', 'time="when"'),
    ("dataset", "pii"): ("pii={}", 'pii={"mail": "drop"}'),
    ("dataset", "columns"): ("columns=None, read=None", 'columns=["a", "b"], read=None'),
    ("dataset", "read"): ("read=None", 'read={"separator": ";"}'),
    ("dataset", "schedule"): ("schedule=None, zone", 'schedule="0 2 * * *", zone'),
    ("dataset", "zone"): ('zone="UTC",\n                 start', 'zone="Europe/Berlin",\n                 start'),
    ("dataset", "start"): ("start=None", 'start="2026-01-01"'),
    ("dataset", "retain"): ("retain=None", 'retain="30d"'),
    ("dataset", "on_bad"): ('on_bad="fail"', 'on_bad="quarantine"'),
    ("labels", "source"): ('"out.csv"', '"other.csv"'),
    ("labels", "key"): ('labels("out.csv", key="id"', 'labels("out.csv", key="other"'),
    ("labels", "value"): ('value="v"', 'value="w"'),
    ("labels", "time"): ('time="t"', 'time="s"'),
    ("labels", "matures"): ('matures="1d"', 'matures="2d"'),
    ("labels", "absent"): ("absent=None", "absent=0"),
    ("labels", "name"): ('name="out"', 'name="ends"'),
    ("labels", "columns"): ("columns=None, read={}", 'columns=["id", "v", "t"], read={}'),
    ("labels", "read"): ("read={}", 'read={"separator": ";"}'),
    ("feature", "entity"): ('entity="id"', 'entity="a"'),
    ("feature", "window"): ('window="7d"', 'window="8d"'),
    ("model", "predicts"): ("predicts=out", 'predicts=rows["b"]'),
    ("model", "uses"): ("twice]", 'rows["b"]]'),
    ("model", "metric"): ('metric="roc_auc"', 'metric="f1"'),
    ("model", "task"): ('task="binary"', 'task="multiclass"'),
    ("model", "positive"): ("positive=1", "positive=0"),
    ("model", "split"): ("split=None", "split=ms.by_chance(test=0.3)"),
    ("model", "tune"): ("tune=None", 'tune={"depth": (1, 9)}'),
    ("model", "trials"): ("tune=None, trials=None", 'tune={"depth": (1, 9)}, trials=3'),
    ("model", "seed"): ("seed=0", "seed=1"),
    ("model", "schedule"): ('schedule=None, zone="UTC", on', 'schedule="0 3 * * 1", zone="UTC", on'),
    ("model", "zone"): ('zone="UTC", on', 'zone="Europe/Berlin", on'),
    ("model", "on"): ("on=()", 'on="new_data"'),
    ("model", "trust_pickle"): ("trust_pickle=False", "trust_pickle=True"),
    ("serve", "rollout"): ("m.serve(None", 'm.serve(ms.shadow("1d")'),
    ("serve", "abort_if"): ("abort_if=[]", 'abort_if=["p99 > 1s"]'),
    ("batch", "to"): ('to="a.csv"', 'to="b.csv"'),
    ("batch", "schedule"): ('to="a.csv", schedule=None', 'to="a.csv", schedule="0 3 * * *"'),
    ("batch", "zone"): ('zone="UTC", of', 'zone="Europe/Berlin", of'),
    ("batch", "of"): ("of=None", "of=rows"),
    ("watch", "score"): ("score=[]", 'score="roc_auc >= 0.8"'),
    ("watch", "drift"): ("drift=None", 'drift="psi > 0.1"'),
    ("watch", "alert_if"): ("alert_if=[]", 'alert_if=["p99 > 1s"]'),
    ("watch", "every"): ('every="1h"', 'every="1d"'),
    ("watch", "false_alarms"): ('false_alarms="1/week"', 'false_alarms="1/day"'),
    ("watch", "heal"): ('heal=""', 'heal="retrain"'),
    ("watch", "cooldown"): ('cooldown="1d"', 'cooldown="2d"'),
    ("watch", "min_rows"): ("min_rows=200", "min_rows=50"),
}

HEAD = 'import mainspring as ms\np = ms.Project("p")\nrows = p.dataset("rows.csv", key="id")\n'
MODEL = HEAD + '@p.model(predicts=rows["b"])\ndef m(X, y, depth=3): return None\n'
BROKEN = {
    "no project": ("import mainspring\n", 0, "declares 0 projects"),
    "a project without a name": ('import mainspring as ms\nms.Project("a")\n', 2, "assign it: name = ms.Project"),
    "two projects": ('import mainspring as ms\na = ms.Project("a")\nb = ms.Project("b")\n', 0, "declares 2 projects"),
    "not python": ("import mainspring as ms\nproject = = 3\n", 2, "not Python"),
    "a name with a slash": ('import mainspring as ms\np = ms.Project("a/b")\n', 2, "not a name for a project"),
    "a missing package": ("import mainspring as ms\nimport tensorfloww\n", 2, "not installed"),
    "an error of its own": ("import mainspring as ms\nx = 1 / 0\n", 2, "ZeroDivisionError"),
    "a misspelt attribute": ('import mainspring as ms\np = ms.Projet("p")\n', 2, "Projet"),
    "a misspelt option": (HEAD + 'q = p.dataset("x.csv", keys="id")\n', 4, "keys"),
    "a wrong duration": (HEAD + 'q = p.dataset("x.csv", name="q",\n    retain="400x")\n', 5, "unknown unit 'x'"),
    "a wrong pii action": (HEAD + 'q = p.dataset("x.csv", name="q", pii={"mail": "hide"})\n', 4, "unknown pii action"),
    "a wrong on_bad": (HEAD + 'q = p.dataset("x.csv", name="q", on_bad="skip")\n', 4, "on_bad"),
    "a wrong start": (HEAD + 'q = p.dataset("x.csv", name="q", start="soon")\n', 4, "not an instant"),
    "a dataset twice": (HEAD + 'again = p.dataset("rows.csv")\n', 4, "already a dataset"),
    "a dataset function with a plain parameter": (HEAD + "@p.dataset(key='id')\ndef q(day): return None\n", 4, "takes (day)"),
    "a check that is none": (HEAD + 'rows.expect("unique")\n', 4, "not a check"),
    "a feature of nothing": (HEAD + "@p.feature\ndef f(amount): return amount * 2\n", 4, "takes 'amount'"),
    "a window without an entity": (HEAD + '@p.feature(window="7d")\ndef f(rows): return rows.a.mean()\n', 4, "window"),
    "a feature with a branch": (
        HEAD + "@p.feature\ndef f(request):\n    if request.a > 1:\n        return request.a\n    return request.b\n", 6, "f"),
    "a feature with an unknown method": (HEAD + "@p.feature\ndef f(request): return request.a.frobnicate()\n", 5, "frobnicate"),
    "a model without a target": (HEAD + "@p.model()\ndef m(X, y): return None\n", 4, "no target"),
    "a model without parentheses": (HEAD + "@p.model\ndef m(X, y): return None\n", 4, "needs a target"),
    "a model of X alone": (HEAD + '@p.model(predicts=rows["b"])\ndef m(X): return None\n', 4, "takes (X)"),
    "a tune name that is no parameter": (
        HEAD + '@p.model(predicts=rows["b"], tune={"dept": (1, 3)})\ndef m(X, y, depth=3): return None\n', 4, '"depth"'),
    "a tune range upside down": (
        HEAD + '@p.model(predicts=rows["b"], tune={"depth": (9, 3)})\ndef m(X, y, depth=3): return None\n', 4, "(9, 3)"),
    "trials of nothing": (HEAD + '@p.model(predicts=rows["b"], trials=3)\ndef m(X, y): return None\n', 4, "searches nothing"),
    "an unknown task": (HEAD + '@p.model(predicts=rows["b"], task="ranking")\ndef m(X, y): return None\n', 4, "ranking"),
    "a column by its bare name": (HEAD + '@p.model(predicts=rows["b"], uses=["a"])\ndef m(X, y): return None\n', 4, "'a'"),
    "a gate that is none": (MODEL + 'm.must("roc_auc > 0.8")\n', 6, "not a gate"),
    "a gate on an unknown metric": (MODEL + 'm.must(ms.gate.at_least("rocauc", 0.8))\n', 6, "roc_auc"),
    "a gate with a share of 95": (MODEL + "m.must(ms.gate.not_worse_than_live(confidence=95))\n", 6, "confidence"),
    "a wrong condition": (MODEL + 'm.watch(score="roc_auc at least 0.8")\n', 6, "expected one of"),
    "an unknown healing": (MODEL + 'm.watch(heal="retrain | pray")\n', 6, "pray"),
    "a wrong frequency": (MODEL + 'm.watch(false_alarms="weekly")\n', 6, "not a frequency"),
    "a rollout that is none": (MODEL + 'm.serve("canary")\n', 6, "not a rollout"),
    "a split of nothing": (HEAD + '@p.model(predicts=rows["b"], split=ms.by_time(test="x"))\ndef m(X, y): return None\n', 4, "x"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_project_is_one_error_with_its_line_and_a_hint(tmp_path: Path, case: str) -> None:
    text, line, said = BROKEN[case]
    with pytest.raises(MainspringError) as caught:
        _load(tmp_path, text)
    error = caught.value
    assert said in str(error)
    assert error.hint
    assert error.where is not None
    assert (Path(error.where.file).name, error.where.line) == ("project.py", line)


def test_a_broken_project_ends_the_command_line_with_code_2_and_no_traceback(tmp_path: Path, mainspring: Any) -> None:
    for number, (text, _, said) in enumerate(list(BROKEN.values())[::4]):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "project.py").write_text(text)
        done = mainspring(folder, "plan")
        assert done.returncode == 2, done.stderr
        assert said in done.stderr
        assert "hint:" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_missing_project_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"no project file") as caught:
        load_project(tmp_path / "project.py")
    assert "mainspring init" in caught.value.hint


def test_paths_start_at_the_project_file_and_not_where_the_shell_stands(tmp_path: Path) -> None:
    spec = _load(tmp_path, PROJECT)
    before = Path.cwd()
    os.chdir("/")
    try:
        assert spec.dataset("visits").source.describe()["path"].endswith("visits.csv")
    finally:
        os.chdir(before)
    assert load_settings(tmp_path, environment={}).project_file == tmp_path / "project.py"
