"""Mutation testing: the small changes of a module that its own tests notice, and those that they do not.

    python tests/mutants.py [MODULE ...]

A mutant is a module with one change: a comparison turned, `and` for `or`, a condition that always or never
holds, a number one larger, a text with a letter more, a statement or an error left out, nothing returned. Its
tests run in a forked process, so that what they import is loaded once. What stands in an error's message, a
docstring or an annotation is left alone. Where CICJAX_DRILLS names a folder, a stopped call goes on from
there.
"""

import ast
import copy
import importlib.abc
import importlib.util
import io
import os
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = {
    "cicjax.provenance.encode": ("tests/provenance/test_encode.py",),
    "cicjax.provenance.weights": ("tests/provenance/test_weights.py",),
    "cicjax.provenance.render": ("tests/provenance/test_render.py",),
    "cicjax.tasks.stem.verifier": ("tests/tasks/test_stem_verifier.py",),
    "cicjax.logs.native": ("tests/logs/test_native.py", "tests/logs/test_hostile_logs.py"),
}
PATIENCE = 40  # seconds of work; a mutant that never ends is noticed
TURNED = {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
SWAPPED = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.Pow: ast.Mult,
}  # fmt: skip


def changes(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """(what was changed, the node in its place) for each change of one node alone."""
    match node:
        case ast.Compare(ops=[op, *rest]) if type(op) in TURNED:
            yield "turned", ast.Compare(node.left, [TURNED[type(op)](), *rest], node.comparators)
        case ast.BoolOp(op=op, values=values):
            yield "and/or", ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in SWAPPED:
            yield "operator", ast.BinOp(left, SWAPPED[type(op)](), right)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield "not", operand
        case ast.If(body=body, orelse=orelse):
            for value in (True, False):
                yield f"if {value}", ast.If(ast.Constant(value), body, orelse)
        case ast.IfExp(body=body, orelse=orelse):
            yield "first", body
            yield "second", orelse
        case ast.Constant(value=bool(value)):
            yield "flipped", ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield "one more", ast.Constant(value + 1)
        case ast.Constant(value=str(value)):
            yield "text", ast.Constant(value + "X")
        case ast.Return(value=value) if value is not None:
            yield "nothing returned", ast.Return(ast.Constant(None))
        case ast.Raise() | ast.Expr(value=ast.Call() | ast.Yield() | ast.YieldFrom()) | ast.AugAssign():
            yield "left out", ast.Pass()
        case ast.Break() | ast.Continue():
            yield "left out", ast.Pass()


def mutants(source: str) -> Iterator[tuple[str, str]]:
    """(place and change, source) of every mutant."""
    tree = ast.parse(source)
    for path in list(_places(tree, ())):
        node = _at(tree, path)
        for what, other in changes(node):
            changed = copy.deepcopy(tree)
            parent, (field, index) = _at(changed, path[:-1]), path[-1]
            replacement = ast.copy_location(copy.deepcopy(other), node)
            if index is None:
                setattr(parent, field, replacement)
            else:
                getattr(parent, field)[index] = replacement
            line = getattr(node, "lineno", 0)
            shown = " ".join(source.splitlines()[line - 1].split())
            yield f"{line}: {what}: {shown}", ast.unparse(ast.fix_missing_locations(changed))


def _places(node: ast.AST, path: tuple) -> Iterator[tuple]:
    """Ways to the nodes below, in order, but for messages, docstrings and annotations."""
    for field, value in ast.iter_fields(node):
        message = isinstance(node, ast.Raise) and field == "exc"
        if message or field in ("annotation", "returns", "decorator_list"):
            continue
        for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if not isinstance(child, ast.AST) or isinstance(child, ast.Import | ast.ImportFrom):
                continue
            if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
                continue
            if isinstance(child, ast.Assign) and ast.unparse(child.targets[0]) == "__all__":
                continue
            here = (*path, (field, index))
            yield here
            yield from _places(child, here)


def _at(tree: ast.AST, path: tuple) -> ast.AST:
    for field, index in path:
        tree = getattr(tree, field) if index is None else getattr(tree, field)[index]
    return tree


class _Instead(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from a source of its own."""

    def __init__(self, name: str, source: str) -> None:
        self._name, self._source = name, source

    def find_spec(self, fullname, path, target=None):
        if fullname != self._name:
            return None
        file = str(ROOT / (fullname.replace(".", "/") + ".py"))
        return importlib.util.spec_from_file_location(fullname, file, loader=self)

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        exec(compile(self._source, module.__spec__.origin, "exec"), module.__dict__)


def survives(module: str, source: str, tests: tuple[str, ...]) -> bool:
    """Whether the tests pass with this source in the module's place."""
    child = os.fork()
    if child == 0:
        code = 3
        resource.setrlimit(resource.RLIMIT_CPU, (PATIENCE, PATIENCE))
        try:
            sys.meta_path.insert(0, _Instead(module, source))
            import pytest

            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                # What measures time says nothing of a result, and takes most of it.
                chosen = ["-m", "not slow and not weights", "-k", "not time_is_linear"]
                code = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *chosen, *tests]))
        finally:
            os._exit(code)
    deadline = time.monotonic() + 20 * PATIENCE
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return False


def main(names: list[str]) -> None:
    """Print how many mutants of each module were noticed, and the others."""
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    sys.path.insert(0, str(ROOT / "tests" / "reliability"))
    import hypothesis
    import hypothesis.internal.conjecture.engine as search
    import jax  # noqa: F401
    import numpy  # noqa: F401
    import pytest  # noqa: F401
    import tokenizers  # noqa: F401
    from faults import Kept

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # loading them takes longer than most tests
    search.MAX_SHRINKS = 0  # that a test fails is enough
    hypothesis.settings.register_profile("few", max_examples=25)  # what only luck finds is not noticed
    hypothesis.settings.load_profile("few")
    for module in names or TESTS:
        source = (ROOT / (module.replace(".", "/") + ".py")).read_text(encoding="utf-8")
        assert survives(module, source, TESTS[module]), f"{module}: its tests fail as it is"
        every, kept = list(mutants(source)), Kept(f"mutants-{module}")
        for place, changed in every[len(kept.rows) :]:
            kept.add([place, survives(module, changed, TESTS[module])])
        left = [place for place, survived in kept.rows if survived]
        print(*(f"  survives {place}" for place in left), sep="\n", flush=True)
        killed = len(every) - len(left)
        print(f"{module}: {killed} of {len(every)} mutants noticed ({killed / len(every):.1%})", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
