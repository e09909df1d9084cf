"""What ``help`` shows of the public names: something for each of them, and examples that run as they stand."""

import doctest
import importlib
import inspect
import re

import pytest

import gpulstm as gl
from gpulstm import cell, lstm
from gpulstm.parameters import KINDS
from gpulstm.training import schedules

MODULES = ["gpulstm", "gpulstm.nn", "gpulstm.ops", "gpulstm.training", "gpulstm.training.schedules"]
MODULES += [f"gpulstm.interop.{name}" for name in ("keras", "onnx", "torch")]


def public(module) -> dict:
    return {name: getattr(module, name) for name in module.__all__}


@pytest.mark.parametrize("name", MODULES)
def test_all_that_is_public_says_what_it_is(name):
    module = importlib.import_module(name)
    assert inspect.getdoc(module)
    for key, value in public(module).items():
        assert not inspect.ismodule(value) or value.__name__.startswith("gpulstm."), f"{name}.{key} is another library"
        assert (inspect.getdoc(value) or "").strip(), f"{name}.{key} has no docstring"
        for method, function in inspect.getmembers(value, inspect.isfunction) if inspect.isclass(value) else ():
            inherited = not function.__module__.startswith("gpulstm")
            assert inherited or method.startswith("_") or inspect.getdoc(function), f"{name}.{key}.{method}"


@pytest.mark.parametrize("module", [lstm, cell], ids=lambda module: module.__name__)
def test_the_examples_run(module):
    found = doctest.testmod(module)
    assert found.attempted >= 5 and found.failed == 0


def test_the_lstms_page_names_every_argument_and_every_parameter():
    page = inspect.getdoc(gl.LSTM)
    names = [f"{kind}_l0" for kind in KINDS] + list(inspect.signature(gl.LSTM).parameters)
    assert [name for name in names if not re.search(rf"\b{name}\b", page)] == []


def test_a_schedule_is_found_by_its_name():
    assert {"constant", "cosine", "warmup", "warmup_cosine"} <= set(schedules.__all__)
