"""Precision, run-time type checks and warnings for the whole suite."""

import contextlib

import hypothesis
import jax
import jaxtyping
import numpy as np
import pytest

from . import slow

# Rooms' internals are checked against their own annotations. The public faces are left out: they take
# any ArrayLike, lists included, and their own ValueErrors must come first.
CHECKED = (
    "hjax.reductions._dense",
    "hjax.reductions._exp2",
    "hjax.reductions._problem",
    "hjax.reductions._streaming",
    "hjax.hamiltonians._hamiltonian",
)
with jaxtyping.install_import_hook(CHECKED, "beartype.beartype"):
    import hjax  # noqa: F401

hypothesis.settings.register_profile(
    "hjax",
    deadline=None,  # the first example of a shape compiles
    derandomize=True,
    max_examples=30,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
hypothesis.settings.load_profile("hjax")


def pytest_configure(config: pytest.Config) -> None:
    """Let pass what other libraries warn about and we cannot change; all else is an error."""
    for line in (
        # hj_reachability and exponax are older than this jax.
        "ignore:.*:DeprecationWarning:hj_reachability.*",
        "ignore:.*:DeprecationWarning:exponax.*",
        "ignore:.*:DeprecationWarning:flax.*",
        # jaxtyping and beartype on annotations that Python 3.14 deprecates.
        "ignore:.*:DeprecationWarning:beartype.*",
    ):
        config.addinivalue_line("filterwarnings", line)
    # Both processes, the modules after `_forget_compiled_programs`, and the next run read what one has compiled.
    if hasattr(config, "cache"):
        jax.config.update("jax_compilation_cache_dir", str(config.cache.mkdir("compiled")))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the slow tests that `slow.py` lists."""
    for item in items:
        if item.nodeid.startswith(slow.PREFIXES):
            item.add_marker(pytest.mark.slow)


def enable_x64(enabled: bool) -> contextlib.AbstractContextManager:
    """The context manager for 64-bit arrays, wherever this jax keeps it."""
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(enabled)
    from jax.experimental import enable_x64

    return enable_x64(enabled)


@pytest.fixture(params=["x32", "x64"])
def precision(request: pytest.FixtureRequest):
    """Run the test in single and in double precision; the value is the dtype."""
    with enable_x64(request.param == "x64"):
        yield np.dtype("float64" if request.param == "x64" else "float32")


@pytest.fixture
def double():
    """Run the test in double precision only."""
    with enable_x64(True):
        yield np.dtype("float64")


@pytest.fixture(autouse=True, scope="module")
def _forget_compiled_programs():
    """The programs of all tests together take ten gigabytes."""
    yield
    jax.clear_caches()
