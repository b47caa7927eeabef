"""A task is handed to whoever needs one: nothing outside the room imports stem; what is named is checked."""

import ast
import sys
from pathlib import Path

import pytest

from cicjax.errors import BadInput
from cicjax.tasks import stem
from cicjax.tasks.named import named
from cicjax.tasks.task import record_of

ROOT = Path(__file__).resolve().parents[2] / "cicjax"


def test_nobody_but_the_room_itself_imports_a_task():
    for path in ROOT.rglob("*.py"):
        if path.relative_to(ROOT).parts[0] == "tasks":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                names = {f"{node.module}.{alias.name}" for alias in node.names}
                assert not any(name.startswith("cicjax.tasks.stem") for name in names), path


def test_stem_as_a_task_gives_what_its_functions_give():
    task = named("stem", numbers="tiny")
    assert task == stem.task("tiny") and record_of(task) == {"numbers": "tiny", "name": "stem"}
    splits = task.splits(3, sft=5, agent=4, dev=3, test=2)
    assert splits == stem.make_splits(seed=3, sft=5, agent=4, dev=3, test=2, numbers="tiny")
    problem = splits.test[0]
    assert task.correct(problem, "no idea") == problem.solution
    verdict = task.verify(problem, problem.solution)
    assert verdict.solved and verdict.facts.keys() == {"value", "unit"}
    assert task.has_marker(problem.solution) and not task.has_marker("4 V")


@pytest.mark.parametrize(
    ("body", "refusal"),
    [
        ("raise RuntimeError('not today')", "cannot be imported (RuntimeError: not today)"),
        ("import a_module_that_is_not_there", "cannot be imported (ModuleNotFoundError"),
        ("TASK = 1", "no task, for it has no settings"),
        ("TASK = Whole()", "a task has a name, a string; this one has None"),
        ("Whole.name = 'x'\nWhole.settings = lambda self: {'a': 1j}\nTASK = Whole()", "no JSON object"),
    ],
)
def test_a_module_without_a_task_is_refused_in_one_line(tmp_path, monkeypatch, body, refusal):
    name = f"broken_{abs(hash(body))}"
    whole = "class Whole:\n" + "".join(
        f"    {method} = lambda self, *given: {{}}\n"
        for method in ("settings", "splits", "verify", "correct", "has_marker")
    )
    (tmp_path / f"{name}.py").write_text(f"{whole}{body}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(BadInput) as error:
        named(f"{name}:TASK", numbers="tiny")
    assert refusal in str(error.value) and "\n" not in str(error.value)
