"""``python -m kmed_bench`` is the same command as ``kmed-bench``."""

import sys

from kmed_bench.cli import main

if __name__ == "__main__":
    sys.exit(main())
