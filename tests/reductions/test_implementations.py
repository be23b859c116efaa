"""Every implementation, through the same suite."""

from .suite import Suite


class TestDense(Suite):
    implementation = "dense"


class TestStreaming(Suite):
    implementation = "streaming"
