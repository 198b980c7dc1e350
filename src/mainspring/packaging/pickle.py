"""Pickle: code in a file's clothes, written and read only where somebody said so twice."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from mainspring.core.errors import Refused
from mainspring.core.ref import digest

FILE = "model/model.pickle"


def write_pickle(estimator: Any) -> bytes:
    """Return the estimator as a pickle; classes and functions of the project travel inside, by value.

    Two processes of one Python version over one project file give equal bytes, unless the model holds a set of texts:
    its order is that of the process's hash seed.
    """
    cloudpickle: Any = importlib.import_module("cloudpickle")  # it has no types
    own = _own_modules()
    for module in own:
        cloudpickle.register_pickle_by_value(sys.modules[module])
    # cloudpickle names each class it carries by a random number; a name made of its path is the same in every run.
    tracker = cloudpickle.cloudpickle._DYNAMIC_CLASS_TRACKER_BY_CLASS
    for module in own:
        for kind in [each for each in vars(sys.modules[module]).values() if isinstance(each, type)]:
            if kind.__module__ == module:
                tracker[kind] = digest(f"{module}.{kind.__qualname__}".encode())[7:39]
    try:
        first = cloudpickle.dumps(estimator, protocol=5)
        # A second time over: which equal objects are one object depends on how the first came to be, not on the model.
        data: bytes = cloudpickle.dumps(cloudpickle.loads(first), protocol=5)
        return data
    finally:
        for module in own:
            cloudpickle.unregister_pickle_by_value(sys.modules[module])


def load_pickle(data: bytes, *, trusted: bool) -> Any:
    """Return the object of a pickle. Reading one runs whatever code it holds.

    Raises:
        Refused: nobody allowed it here.
    """
    if not trusted:
        raise Refused(
            "the bundle holds a pickle, which runs code when it is read, and this installation does not trust pickles",
            hint="set trust_pickle = true for this target in mainspring.toml, or train a model that has a safe format",
        )
    return importlib.import_module("cloudpickle").loads(data)


def _own_modules() -> list[str]:
    """Return the loaded modules that no installed package brings: the project's own files."""
    installed = tuple({path for path in sys.path if "site-packages" in path} | {sys.prefix, sys.base_prefix})
    return sorted(
        name for name, module in list(sys.modules.items())
        if (file := getattr(module, "__file__", None)) and not file.startswith(installed) and "/mainspring/" not in file
        and name != "__main__"
    )  # fmt: skip
