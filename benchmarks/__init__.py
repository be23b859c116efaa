"""Benchmarks: named workloads, hjax's implementations and its peers, ratios from one run.

`python -m benchmarks` prints the table and saves JSON and a picture; see `__main__`.
"""

import os

# OpenMP's threads (torch, pykeops, the C loop) otherwise spin for a while after their work, and would do so
# on the cores of whoever runs next.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
