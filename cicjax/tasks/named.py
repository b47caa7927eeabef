"""The task that a command line asks for: `stem`, or MODULE:ATTRIBUTE, which imports the user's own module."""

import importlib
import json
import os
import sys
from types import ModuleType
from typing import Any, Literal

from cicjax.errors import BadInput, shorten
from cicjax.tasks.task import Task, record_of

STEM, PRINTED = "stem", "stem-printed"
# The pool of operands that the embedded base knows.
EMBEDDED: Literal["tiny", "catalogue"] = "catalogue"
METHODS = ("settings", "splits", "verify", "correct", "has_marker")


def named(name: str, *, numbers: Literal["paper", "printed", "tiny", "catalogue"]) -> Task:
    """The task of this name; `numbers` is stem's pool of operands, unless the name says `printed`.

    Raises BadInput for a module or attribute that is not there, and for an object that is no task.
    """
    if name in (STEM, PRINTED):
        from cicjax.tasks import stem

        return stem.task("printed" if name == PRINTED else numbers)
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise BadInput(f"--task {name}: no such task; choose {STEM}, or name your own as MODULE:ATTRIBUTE")
    task = imported(f"--task {name}", module, attribute)
    _check(task, name)
    return task


def imported(said: str, module: str, attribute: str) -> Any:
    """An attribute of a user's own module. Raises BadInput, which begins with `said`, where there is none."""
    found = _module(module, said)
    if not hasattr(found, attribute):
        raise BadInput(f"{said}: {found.__name__} has no attribute {attribute}")
    return getattr(found, attribute)


def _module(module: str, said: str) -> ModuleType:
    # An installed command does not look into the folder that it is called from; whoever writes a task does.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module}.".startswith(f"{error.name}."):
            raise BadInput(
                f"{said}: there is no module {error.name}; call from its folder or install it"
            ) from None
        raise _broken(said, error) from error
    except Exception as error:
        raise _broken(said, error) from error


def _broken(said: str, error: Exception) -> BadInput:
    return BadInput(f"{said}: its module cannot be imported ({type(error).__name__}: {error})")


def _check(task: Any, name: str) -> None:
    """Raise BadInput unless the object has what a task has."""
    missing = [method for method in METHODS if not callable(getattr(task, method, None))]
    if isinstance(task, type):
        raise BadInput(f"--task {name}: a class, not a task; name an object made of it")
    if missing:
        raise BadInput(f"--task {name}: no task, for it has no {', no '.join(missing)}")
    if not isinstance(getattr(task, "name", None), str) or not task.name:
        raise BadInput(
            f"--task {name}: a task has a name, a string; this one has {shorten(getattr(task, 'name', None))}"
        )
    try:
        json.dumps(record_of(task), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise BadInput(f"--task {name}: its settings are no JSON object ({error})") from None
