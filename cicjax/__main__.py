"""`cicjax`, and `python -m cicjax`: signals first; then the process is prepared, before anything that it
would import twice."""

import sys

from cicjax import signals


def main() -> int:
    """The command that the process's arguments say. Returns its exit code."""
    signals.install()
    try:
        from cicjax.devices import process

        process.prepare()
        from cicjax import cli
        from cicjax.devices import hosts

        with hosts.parting() as leave:
            return leave(cli.main())
    finally:
        signals.restore()


if __name__ == "__main__":
    sys.exit(main())
