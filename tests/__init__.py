"""The tests. Matrices here are small: threads of BLAS would only wait for each other, and other tests, at a high price."""

import os

# Read when NumPy is first imported, so before any test module; processes that tests start inherit it.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
