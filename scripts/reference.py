"""The reference, from the docstrings: `python scripts/reference.py DIR` writes a page a module into DIR."""

import importlib
import pkgutil
import sys
from pathlib import Path
from typing import Any

import cicjax


def main(folder: Path) -> None:
    """Write the pages. What a package offers by name it shows beside its modules, and none is left out."""
    packages = [each.name for each in pkgutil.walk_packages(cicjax.__path__, "cicjax.") if each.ispkg]
    for package_name in ["cicjax", *packages]:
        package: Any = importlib.import_module(package_name)
        if hasattr(package, "__all__"):
            for name in package.__all__:
                setattr(package, name, getattr(package, name))  # the lazy ones too
            modules = [each.name for each in pkgutil.iter_modules(package.__path__)]
            package.__all__ = list(dict.fromkeys([*package.__all__, *modules]))
    pdoc: Any = importlib.import_module("pdoc")  # of the extra `test`
    pdoc.pdoc("cicjax", "!cicjax.__main__", output_directory=folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
