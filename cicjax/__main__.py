"""`cicjax`, and `python -m cicjax`: the process is prepared before anything that it would import twice."""

import sys

from cicjax.devices import process


def main() -> int:
    """The command that the process's arguments say. Returns its exit code."""
    process.prepare()
    from cicjax import cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
