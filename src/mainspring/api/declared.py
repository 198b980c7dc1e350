"""The name that a project file declares."""

from __future__ import annotations

from pathlib import Path


def declared_name(project_file: Path) -> str:
    """Return the name a project file declares.

    It is read off the text where the text says it plainly, because importing the file may import half of what is
    installed; otherwise the file is imported.
    """
    import ast

    try:
        tree = ast.parse(project_file.read_bytes())
    except (SyntaxError, ValueError):
        tree = ast.Module(body=[], type_ignores=[])
    for node in tree.body:
        value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
        if isinstance(value, ast.Call) and ast.unparse(value.func).rpartition(".")[2] == "Project" and value.args:
            name = value.args[0]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                return name.value
    from mainspring.project.loading import load_project

    return load_project(project_file).name
