"""The examples in the docstrings run, one test per module."""

import doctest
import importlib
import pkgutil

import pytest

import hjax

MODULES = ["hjax", *(m.name for m in pkgutil.walk_packages(hjax.__path__, "hjax."))]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_this_module_run(name):
    failures, _ = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert failures == 0
