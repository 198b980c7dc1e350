import errno
import json
import resource
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mainspring import __version__
from mainspring.cli import main as program
from mainspring.cli.main import app, globals_first, run
from mainspring.core.errors import Conflict, Forbidden, Invalid, NotFound, Refused, Unavailable
from mainspring.core.settings import load_settings
from mainspring.store import tables
from mainspring.store.workspace import open_workspace

PROJECT = """
import mainspring as ms

shop = ms.Project("shop")
sales = shop.dataset("sales.csv", key="id")

@shop.model(predicts=sales["bought"])
def model(X, y):
    from sklearn.dummy import DummyClassifier
    return DummyClassifier().fit(X, y)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "project.py").write_text(PROJECT)
    (tmp_path / "sales.csv").write_text("id,visits,bought\n" + "".join(f"{i},{i % 7},{i % 2}\n" for i in range(60)))
    monkeypatch.chdir(tmp_path)
    for name in ("MAINSPRING_URL", "MAINSPRING_TOKEN", "MAINSPRING_HOME", "MAINSPRING_ACTOR"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def _commands() -> list[list[str]]:
    found: list[list[str]] = [[]]
    for command in app.registered_commands:
        assert command.callback is not None
        found.append([(command.name or command.callback.__name__).rstrip("_")])
    for group in app.registered_groups:
        assert group.name is not None
        assert group.typer_instance is not None
        found.append([group.name])
        for command in group.typer_instance.registered_commands:
            assert command.callback is not None
            found.append([group.name, command.name or command.callback.__name__])
    return found


@pytest.mark.parametrize("words", _commands(), ids=" ".join)
def test_every_command_explains_itself(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*words, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "Usage: mainspring" in shown
    described = [line for line in shown.splitlines() if line.startswith("  ") and line.strip()]
    assert described[0].strip().endswith("."), shown


def test_help_comes_up_within_a_quarter_of_a_second() -> None:
    # Processor time: on a machine that does other things beside, the clock on the wall says more about those.
    took = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "mainspring.cli.main", "--help"], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    print(f"mainspring --help: {min(took):.3f} s")
    assert min(took) < 0.25


def test_the_command_line_imports_nothing_heavy_to_show_help() -> None:
    code = "import sys, mainspring.cli.main; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"numpy", "polars", "pandas", "sqlalchemy", "msgspec", "sklearn", "mlflow", "rich"} & set(loaded)


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("models list --json", "--json models list"),
        ("models show m@1 -C there --project p", "-C there --project p models show m@1"),
        ("--url=http://x why id", "--url=http://x why id"),
        ("why -- --json", "why -- --json"),
        ("run --project", "--project run"),
    ],
)
def test_global_options_may_stand_anywhere(line: str, wanted: str) -> None:
    assert globals_first(line.split()) == wanted.split()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("modles list", "no such command 'modles'"),
        ("models lst", "no such command 'lst'"),
        ("models show m@1 --bogus", "no such option"),
        ("models promote", "missing argument"),
        ("up --port eighty", "invalid value"),
        ("models promote model", "names no version"),
        ("models show 'a b'", "not a name"),
        ("models show nothing@1", "of a model 'nothing'"),
        ("data show nothing", "nothing"),
        ("runs show nothing", "no run 'nothing'"),
        ("data diff sales 1 2", "no dataset"),
        ("why nothing", "no prediction 'nothing'"),
        ("tokens create bob --role king", "no role 'king'"),
        ("tokens create bob --expires-in soon", "soon"),
        ("tokens revoke ms_0123456789", "no living token"),
        ("alerts list --status odd", "no alerts are 'odd'"),
        ("lineage nothing", "not a reference"),
        ("-C nowhere models list", "there is no project"),
        ("--project other plan", 'no project "other" is declared here'),
        ("--url ftp://x models list", "no token"),
        ("run nothing", "no model 'nothing'"),
    ],
)
def test_a_mistake_is_a_code_a_reason_and_a_hint_on_stderr_and_exit_code_2(
    folder: Path, capsys: pytest.CaptureFixture[str], line: str, words: str
) -> None:
    assert run(globals_first(shlex.split(line))) == 2
    said = capsys.readouterr()
    lines = said.err.strip().splitlines()
    assert words in said.err
    assert "Traceback" not in said.err
    assert lines[0].partition(": ")[0] in ("invalid", "not-found", "forbidden"), said.err
    assert lines[-1].startswith("hint: "), said.err


def test_an_error_is_json_where_json_is_asked_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(globals_first(["models", "show", "nothing@1", "--json"])) == 2
    said = json.loads(capsys.readouterr().err)
    assert said["code"] == "not-found"
    assert said.keys() >= {"code", "message", "hint"}


@pytest.mark.parametrize(
    ("error", "code"),
    [(Refused, 1), (Invalid, 2), (NotFound, 2), (Conflict, 2), (Forbidden, 2), (Unavailable, 3), (ValueError, 70)],
)
def test_exit_codes_say_whose_turn_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: type[Exception], code: int
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error("something")

    monkeypatch.setattr(program, "app", fail)
    assert run([]) == code
    said = capsys.readouterr().err
    assert "Traceback" not in said
    if code == 70:
        assert Path(said.rpartition("the file ")[2].strip()).read_text().startswith("Traceback")


def test_the_version_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"
    assert run(globals_first(["--version", "--json"])) == 0
    assert json.loads(capsys.readouterr().out) == {"version": __version__}


def test_what_the_system_refuses_is_unavailable_and_names_the_path(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/data/locked")

    monkeypatch.setattr(program, "app", fail)
    assert run([]) == 3
    said = capsys.readouterr().err
    assert said.startswith("unavailable: /data/locked cannot be used: Permission denied\nhint: ")


def test_a_broken_project_file_is_named_with_its_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "project.py").write_text('import mainspring as ms\np = ms.Project("shop")\np.dataset(nothing)\n')
    assert run(["plan"]) == 2
    assert "project.py:3" in capsys.readouterr().err


def test_plan_shows_what_is_new_and_apply_makes_it_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan"]) == 0
    assert "+ model:model" in capsys.readouterr().out
    assert run(["apply"]) == 0
    capsys.readouterr()
    assert run(["plan"]) == 0
    assert "nothing to change" in capsys.readouterr().out
    assert run(["--json", "projects"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"name": "shop", "models": ["model"], "datasets": ["sales"]}]


def test_data_is_read_shown_and_logged(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["data", "ingest", "sales"]) == 0
    assert "60 rows" in capsys.readouterr().out
    assert run(["data", "show", "sales"]) == 0
    assert "visits" in capsys.readouterr().out
    assert run(["audit", "log"]) == 0
    assert "dataset.ingested" in capsys.readouterr().out
    assert run(["audit", "verify"]) == 0
    assert "pass  shop" in capsys.readouterr().out


def test_tokens_are_made_listed_used_and_ended(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(["tokens", "create", "bob", "--role", "viewer"]) == 0
    token = capsys.readouterr().out.splitlines()[0]
    monkeypatch.setenv("MAINSPRING_TOKEN", token)
    assert run(["tokens", "create", "eve", "--role", "admin"]) == 2
    assert "bob is viewer and may not tokens.write" in capsys.readouterr().err
    monkeypatch.delenv("MAINSPRING_TOKEN")
    assert run(["--json", "tokens", "list"]) == 0
    prefix = json.loads(capsys.readouterr().out)[0]["prefix"]
    assert run(["tokens", "revoke", prefix]) == 0
    monkeypatch.setenv("MAINSPRING_TOKEN", token)
    assert run(["models", "list"]) == 2
    assert "not valid" in capsys.readouterr().err


def test_routes_are_data(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--json", "routes"]) == 0
    assert {"method", "path", "policy", "permission", "summary"} == json.loads(capsys.readouterr().out)[0].keys()


def test_completion_is_offered(folder: Path) -> None:
    environment = {"_MAINSPRING_COMPLETE": "complete_bash", "COMP_WORDS": "mainspring mod", "COMP_CWORD": "1"}
    shown = subprocess.run(
        [Path(sys.executable).parent / "mainspring"], env=environment, capture_output=True, text=True, check=False
    )
    assert "models" in shown.stdout


@pytest.mark.parametrize(("words", "ports"), [(["up"], ("8000", "8080")), (["serve"], ("8080",))])
def test_help_shows_the_ports_that_are_used(
    words: list[str], ports: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*words, "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "default: 0" not in shown
    assert all(f"default: ({port})" in shown for port in ports), shown


def test_a_busy_port_is_named_in_the_hint(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert run(["up", "--port", str(port)]) == 3
    assert f"hint: stop what listens on port {port}" in capsys.readouterr().err


def test_a_login_link_leads_to_where_the_control_plane_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["login", "link"]) == 0
    assert capsys.readouterr().out.startswith("http://127.0.0.1:8000/login#")
    (folder / ".mainspring" / "locks" / "up").write_text("http://127.0.0.1:8123")
    assert run(["login", "link"]) == 0
    assert capsys.readouterr().out.startswith("http://127.0.0.1:8123/login#")


def test_an_unknown_dataset_in_the_lineage_is_answered_with_its_form(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["lineage", "dataset:sales@9"]) == 2
    assert "hint: write it as dataset:NAME@VERSION" in capsys.readouterr().err


def test_blocking_what_is_live_says_so_and_unblocking_the_rest_too(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ws = open_workspace(load_settings(folder))
    with ws.change("shop") as change:
        change.execute(tables.model_versions.insert().values(
            project="shop", model="model", version=1, bundle_digest="", run_id="r", report_digest="", policy_digest="",
            author="ann", status="proven", created_at=ws.clock.now(), lineage={}, metrics={}, verdicts=[],
        ))  # fmt: skip
        change.execute(tables.aliases.insert().values(
            project="shop", model="model", alias="production", version=1, moved_at=ws.clock.now()))  # fmt: skip
    ws.close()
    assert run(["models", "unblock", "model@1", "--reason", "x"]) == 2
    assert "model:model@1 is not blocked; it is proven" in capsys.readouterr().err
    assert run(["models", "block", "model@1", "--reason", "x"]) == 0
    assert "is blocked; it is still live: mainspring models rollback model" in capsys.readouterr().out
