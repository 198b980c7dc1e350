import math
from pathlib import PurePosixPath

import pytest

from mainspring.api.operations import OPERATIONS
from mainspring.api.spec import as_data, operation
from mainspring.core.errors import Invalid
from mainspring.core.records import Interval, MetricValue
from mainspring.governance.access import PERMISSIONS


def _double(ws: object, project: str, count: int = 1, names: list[str] | None = None) -> MetricValue:
    """Double something."""
    return MetricValue(project, 2.0 * count, len(names or ()))


DOUBLE = operation("numbers.double", "models.read", "read")(_double)


def test_arguments_arrive_as_the_functions_types() -> None:
    assert DOUBLE.read_arguments({"project": "x", "count": 3}) == {"project": "x", "count": 3, "names": None}
    assert DOUBLE.read_arguments({"project": "x", "count": "3"}, from_text=True)["count"] == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"project": "x", "cuont": 3}, 'the nearest name is "count"'),
        ({"project": "x", "actor": "root"}, "takes no argument 'actor'"),
        ({"project": "x", "project_id": "y", "approved_by": "me"}, "takes no argument"),
        ({"count": 3}, "missing required field `project`"),
        ({"project": "x", "count": "secret"}, "Expected `int`, got `str`"),
        ({"project": "x", "count": True}, "Expected `int`"),
        ({"project": "../x"}, "not a name"),
        ({"project": "x", "names": [1]}, r"Expected `str`, got `int` - at `\$\.names\[0\]`"),
    ],
)
def test_an_argument_that_does_not_fit_is_refused_without_its_value(arguments: dict, words: str) -> None:
    with pytest.raises(Invalid, match=words) as caught:
        DOUBLE.read_arguments(arguments)
    assert "secret" not in str(caught.value)


def test_schemas_say_what_goes_in_and_what_comes_out() -> None:
    properties = DOUBLE.input_schema()["properties"]
    assert properties["count"] == {"type": "integer", "default": 1}
    assert DOUBLE.input_schema()["required"] == ["project"]
    assert DOUBLE.output_schema()["properties"]["n"] == {"type": "integer"}


def test_an_operation_needs_a_permission_that_some_role_holds() -> None:
    with pytest.raises(Invalid, match="no role holds"):
        operation("numbers.double", "numbers.double", "read")(_double)


def test_results_become_json_data() -> None:
    result = {"value": math.nan, "metric": MetricValue("auc", 0.5, 3, Interval(0.1, 0.9)), "path": PurePosixPath("/x")}
    assert as_data(result) == {
        "value": None,
        "metric": {"name": "auc", "value": 0.5, "n": 3, "interval": {"low": 0.1, "high": 0.9, "level": 0.95}},
        "path": "/x",
    }


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_says_what_it_does_and_has_both_schemas(name: str) -> None:
    found = OPERATIONS[name]
    assert found.summary.endswith("."), "the first line of its docstring is what help and OpenAPI show"
    assert found.permission in PERMISSIONS
    assert found.input_schema()["additionalProperties"] is False
    assert isinstance(found.output_schema(), dict)


def test_names_follow_one_form_and_paths_do_not_meet() -> None:
    assert all(name.count(".") == 1 and name.replace(".", "").replace("_", "").isalpha() for name in OPERATIONS)
    assert len({found.path for found in OPERATIONS.values()}) == len(OPERATIONS)


def test_what_reads_needs_a_reading_permission_and_what_changes_does_not_make_do_with_one() -> None:
    for found in OPERATIONS.values():
        reads = found.permission.endswith(".read")
        assert reads or found.effect != "read", found.name
        assert not reads or found.effect in ("read", "local"), found.name
