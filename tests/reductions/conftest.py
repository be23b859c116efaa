"""Slow tests of the abstract suite: each implementation names its own."""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what a class lists in `slow`, by the beginnings of names."""
    for item in items:
        if item.name.startswith(getattr(getattr(item, "cls", None), "slow", None) or "-"):
            item.add_marker(pytest.mark.slow)
