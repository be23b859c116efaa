"""Experiments: problems solved from files, and the theory checked; the only room with files and figures."""
