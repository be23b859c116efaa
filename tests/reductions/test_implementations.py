"""Every implementation, through the same suite."""

import pytest

from hjax.reductions import _pruned

from .suite import Suite


class TestDense(Suite):
    implementation = "dense"


class TestStreaming(Suite):
    implementation = "streaming"


class TestPruned(Suite):
    implementation = "pruned"

    @pytest.fixture(autouse=True)
    def _prunes_small_problems(self, monkeypatch):
        """The suite's problems are small: without this they would test streaming again, on a single tile."""
        settings = {"PAIRS_WORTH_SUMS": 0, "PAIRS_WORTH_A_MINIMUM": 0, "MOST_SELECTED": 1}
        for name, value in (settings | {"BLOCK_QUERIES": 16, "TILE_ATOMS": 8, "RUN": 4, "GROUP": 4}).items():
            monkeypatch.setattr(_pruned, name, value)
