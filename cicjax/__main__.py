"""`python -m cicjax` is `cicjax`."""

import sys

from cicjax.cli import main

if __name__ == "__main__":
    sys.exit(main())
