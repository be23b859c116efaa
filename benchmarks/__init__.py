"""Benchmarks: named workloads, hjax's implementations and its peers, ratios from one run.

`python -m benchmarks` prints the table and saves JSON and a picture; see `__main__`.
"""
