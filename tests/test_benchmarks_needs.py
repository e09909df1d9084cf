"""What the benchmarks say where something is missing that they cannot do without."""

import sys
from types import SimpleNamespace

import pytest

from benchmarks import compare, layouts
from benchmarks.needs import need


@pytest.fixture
def nothing_installed(monkeypatch):
    for name in ("cupy", "torch"):
        monkeypatch.setitem(sys.modules, name, None)  # Python's own way to say that there is none


def test_a_missing_package_is_one_sentence_with_the_command(nothing_installed):
    with pytest.raises(SystemExit, match=r'^This needs PyTorch: pip install "\.\[bench\]", built for'):
        compare.main(["--device", "cpu"])
    with pytest.raises(SystemExit, match=r'^This needs PyTorch: .*, and CuPy: pip install "\.\[cuda12x\]"'):
        compare.main([])


def test_no_gpu_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: False)))
    monkeypatch.setattr(sys, "argv", ["layouts.py"])
    with pytest.raises(SystemExit, match="needs an NVIDIA GPU"):
        layouts.main()


def test_what_is_there_is_no_matter(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: True)))
    need("torch", "cupy", gpu=True)
