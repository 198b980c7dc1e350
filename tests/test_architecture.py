"""The structure holds: what the root import costs, one sentence per module, one vendor per file, no loose ends."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mainspring

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "mainspring"
MODULES = sorted(SOURCE.rglob("*.py"))
# A vendor's ways are known by the one file named for it; changing vendors is changing that file.
VENDORS = {
    "dbos": "orchestration/engine.py",
    "deltalake": "data/delta.py",
    "mlflow": "tracking/mlflow_store.py",
    "optuna": "training/tuning.py",
    "onnx": "packaging/onnx.py",
    "onnxruntime": "packaging/onnx.py",
    "skops": "packaging/skops.py",
    "prometheus_client": "serving/metrics.py",
    "pandera": "data/pandera.py",
    "croniter": "orchestration/schedule.py",
    "typer": "cli/",
    "fsspec": "store/objects.py",
}


def _name(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_importing_mainspring_loads_the_standard_library_only_and_under_60_modules() -> None:
    code = "import sys; before = set(sys.modules); import mainspring; print(*sorted(set(sys.modules) - before))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    foreign = {name.partition(".")[0] for name in loaded} - set(sys.stdlib_module_names) - {"mainspring"}
    assert not foreign
    assert len(loaded) < 60


def test_every_public_name_resolves() -> None:
    for name in mainspring.__all__:
        assert getattr(mainspring, name) is not None


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_a_module_opens_with_one_sentence(path: Path) -> None:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    first = text.splitlines()[0] if text else ""
    assert first.endswith("."), f"{path.name} opens with {first!r}"


@pytest.mark.parametrize("path", [p for p in MODULES if p.name == "__init__.py" and p.parent != SOURCE], ids=_name)
def test_a_package_defines_nothing(path: Path) -> None:
    assert len(ast.parse(path.read_text(encoding="utf-8")).body) == 1


def test_no_file_passes_500_lines() -> None:
    assert not [(_name(p), n) for p in MODULES if (n := len(p.read_text(encoding="utf-8").splitlines())) > 500]


def test_every_module_is_used_by_another_or_named_as_an_entry() -> None:
    texts = {_name(path): path.read_text(encoding="utf-8") for path in MODULES}
    imports = {name: _imports(ast.parse(text)) for name, text in texts.items()}
    unused = set()
    for name in texts.keys() - {_name(path) for path in MODULES if path.name == "__init__.py"}:
        others = [other for other in texts if other != name]
        is_imported = any(name in imports[other] for other in others)
        as_word = re.compile(rf"{re.escape(name)}(?![.\w])")
        places = [*(texts[other] for other in others), (ROOT / "pyproject.toml").read_text(encoding="utf-8")]
        if not is_imported and not any(as_word.search(place) for place in places):
            unused.add(name)
    assert not unused


@pytest.mark.parametrize(("vendor", "home"), VENDORS.items())
def test_a_vendor_is_imported_by_the_one_file_named_for_it(vendor: str, home: str) -> None:
    importing = {
        path.relative_to(SOURCE).as_posix()
        for path in MODULES
        if any(n.partition(".")[0] == vendor for n in _imports(ast.parse(path.read_text(encoding="utf-8"))))
    }
    assert all(place.startswith(home) for place in importing), f"{vendor} is imported by {importing}"


def test_every_module_imports() -> None:
    for module in pkgutil.walk_packages([str(SOURCE)], "mainspring."):
        importlib.import_module(module.name)


@pytest.mark.parametrize("lock", ["requirements.txt", "requirements-dev.txt"])
def test_a_lock_pins_every_package_by_hash_and_names_no_index(lock: str) -> None:
    text = (ROOT / lock).read_text(encoding="utf-8")
    pinned = re.findall(r"^([a-z0-9.-]+)(?:\[[a-z,]+\])?==", text, flags=re.MULTILINE)
    assert len(re.findall(r"^[a-z0-9.-]+(?:\[[a-z,]+\])?==[^#]*?--hash=sha256:", text, flags=re.MULTILINE)) == len(
        pinned
    )
    assert "://" not in text
    assert "--index" not in text
    assert "--find-links" not in text


def test_the_core_install_has_at_most_120_packages() -> None:
    assert 20 < (ROOT / "requirements.txt").read_text(encoding="utf-8").count("==") <= 120
