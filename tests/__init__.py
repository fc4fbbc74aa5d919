"""The tests. Matrices here are small: threads of BLAS would cost more than they save, and disturb other tests."""

import os

# Read when NumPy is first imported, so before any test module; processes that tests start inherit it.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
