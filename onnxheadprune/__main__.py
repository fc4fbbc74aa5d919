"""`python -m onnxheadprune`."""

from __future__ import annotations

import sys

from onnxheadprune.cli import main

if __name__ == "__main__":
    sys.exit(main())
