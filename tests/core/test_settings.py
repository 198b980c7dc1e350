"""Where a project runs is one target, and a setting that nothing reads is an error."""

from __future__ import annotations

from pathlib import Path

import pytest

from mainspring.core.errors import Invalid
from mainspring.core.settings import load_settings


def test_without_a_file_everything_is_embedded_under_one_folder(tmp_path: Path) -> None:
    settings = load_settings(tmp_path, environment={})
    assert settings.home == tmp_path / ".mainspring"
    assert settings.database == f"sqlite:///{tmp_path}/.mainspring/mainspring.db"
    assert settings.mlflow == f"sqlite:///{tmp_path}/.mainspring/mlflow.db"


def test_a_target_moves_the_decisions_and_the_pipelines_to_postgresql(tmp_path: Path) -> None:
    (tmp_path / "mainspring.toml").write_text('target = "team"\n[targets.team]\ndatabase = "postgresql://u@h/base"\n')
    settings = load_settings(tmp_path, environment={})
    assert settings.database == settings.pipelines == "postgresql+psycopg://u@h/base"


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "mainspring.toml").write_text('[targets.local]\nmlflow = "http://a"\n')
    settings = load_settings(
        tmp_path, environment={"MAINSPRING_MLFLOW_URI": "http://b", "MAINSPRING_HOME": str(tmp_path / "x")}
    )
    assert (settings.mlflow, settings.home) == ("http://b", tmp_path / "x")


def test_a_home_whose_name_would_end_a_url_early_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=r"holds a '\?'"):
        load_settings(tmp_path / "what?" / "shop", environment={})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("targt = 1", 'the nearest name is "target"'),
        ("[targets.local]\ndatabse = 'x'", 'the nearest name is "database"'),
        ("[targets.local.alerts]\nslck = 'x'", 'the nearest name is "slack"'),
        ("target = 'prod'", "no target 'prod'"),
        ("= broken", "not TOML"),
        ("[targets.local]\ndatabase = 'oracle://x'", "'oracle' is not a database"),
    ],
)
def test_a_wrong_setting_is_named_with_what_would_work(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "mainspring.toml").write_text(text)
    with pytest.raises(Invalid) as caught:
        load_settings(tmp_path, environment={})
    assert said in str(caught.value)
    assert caught.value.hint


def test_the_project_file_is_project_py_or_the_one_named(tmp_path: Path) -> None:
    assert load_settings(tmp_path, environment={}).project_file is None
    (tmp_path / "project.py").touch()
    assert load_settings(tmp_path, environment={}).project_file == tmp_path / "project.py"
    (tmp_path / "mainspring.toml").write_text('[project]\nfile = "fraud.py"\n')
    assert load_settings(tmp_path, environment={}).project_file == tmp_path / "fraud.py"
