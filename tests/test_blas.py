"""gpulstm/blas.py: the report on NumPy's BLAS is right on every kind of build, and never fails."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gpulstm import blas, config

WIDE = dict.fromkeys(("AVX2", "FMA3", "AVX512F", "AVX512CD", "AVX512BW", "AVX512DQ", "AVX512VL"), True)
NARROW = WIDE | {"AVX512BW": False}  # as on Knights Landing, where OpenBLAS has no kernels for AVX-512 either
CONFIG = "OpenBLAS 0.3.31 DYNAMIC_ARCH NO_AFFINITY {} MAX_THREADS=64"


class Function:
    """A C function without arguments."""

    def __init__(self, answer):
        self.answer = answer

    def __call__(self):
        return self.answer if self.restype is ctypes.c_char_p else 12345


class Library:
    def __init__(self, **functions):
        for name, answer in functions.items():
            setattr(self, name, Function(answer))


def openblas(kernels, names="scipy_openblas_{}64_", config=CONFIG):
    answers = {"get_corename": kernels.encode(), "get_config": config.format(kernels).encode()}
    return Library(**{names.format(name): answer for name, answer in answers.items()})


@pytest.fixture
def machine(monkeypatch):
    """Sets what NumPy was built with, what is loaded, and what the processor has."""

    def set_up(libraries=(), features=WIDE, build=("scipy-openblas", "0.3.31")):
        blas_build = dict(zip(("name", "version"), build, strict=True))
        monkeypatch.setattr(np, "show_config", lambda mode: {"Build Dependencies": {"blas": blas_build}})
        monkeypatch.setattr(blas, "_libraries", lambda: list(libraries))
        monkeypatch.setattr(blas, "_features", lambda: features)

    return set_up


class TestKernels:
    @pytest.mark.parametrize(
        ("kernels", "features", "wanted"),
        [
            ("Haswell", WIDE, "SkylakeX"),
            ("Zen", WIDE, "SkylakeX"),
            ("Sandybridge", WIDE, "SkylakeX"),
            ("Nehalem", NARROW, "Haswell"),
            ("Haswell", NARROW, None),
            ("SkylakeX", WIDE, None),
            ("Cooperlake", WIDE, None),
            ("SapphireRapids", WIDE, None),
            ("Sandybridge", {"AVX2": False}, None),
            ("armv8", {"NEON": True}, None),
            ("KernelsOfTheFuture", WIDE, None),
            ("Haswell", {}, None),
        ],
    )
    def test_advice_is_given_where_faster_kernels_would_run(self, machine, kernels, features, wanted):
        machine([openblas(kernels)], features)
        first, *advice = blas.lines()
        assert first == f"BLAS scipy-openblas 0.3.31, {kernels} kernels"
        assert len(advice) == (wanted is not None)
        if wanted:
            assert f"OPENBLAS_CORETYPE={wanted}, set before Python starts" in advice[0]
            assert f"which {kernels} kernels do not use" in advice[0]
            assert ("AVX-512" in advice[0]) == (wanted == "SkylakeX")
        assert all(line in config.report() for line in advice)

    def test_a_build_for_one_processor_has_no_other_kernels(self, machine):
        machine([openblas("Haswell", config="OpenBLAS 0.3.31 NO_AFFINITY {}")])
        assert blas.lines() == ["BLAS scipy-openblas 0.3.31, Haswell kernels"]

    @pytest.mark.parametrize("names", ["openblas_{}", "openblas_{}64_", "openblas_{}_64", "scipy_openblas_{}"])
    def test_the_functions_are_found_under_other_builds_names(self, machine, names):
        machine([Library(cblas_sgemm=b""), openblas("Zen", names)])
        assert "Zen kernels" in blas.lines()[0] and len(blas.lines()) == 2

    @pytest.mark.parametrize("libraries", [[], [Library()], [Library(openblas_get_corename=None)]])
    def test_without_openblas_there_is_the_librarys_name(self, machine, libraries):
        machine(libraries)
        assert blas.lines() == ["BLAS scipy-openblas 0.3.31"]

    @pytest.mark.parametrize("name", ["mkl-sdl", "accelerate", "blis"])
    def test_another_packages_openblas_is_not_numpys(self, machine, name):
        machine([openblas("Haswell")], build=(name, "1.2"))
        assert blas.lines() == [f"BLAS {name} 1.2"]

    @pytest.mark.parametrize("build", [{}, {"Build Dependencies": {}}])
    def test_a_build_that_says_nothing(self, machine, monkeypatch, build):
        machine([openblas("SkylakeX")])
        monkeypatch.setattr(np, "show_config", lambda mode: build)
        assert blas.lines() == ["BLAS unknown, SkylakeX kernels"]
        monkeypatch.setattr(blas, "_libraries", list)
        assert blas.lines() == ["BLAS unknown"]


class TestWhereItIs:
    @pytest.fixture
    def site(self, monkeypatch, tmp_path):
        """An empty folder of packages, with NumPy in it."""
        (tmp_path / "numpy").mkdir()
        monkeypatch.setattr(np, "__file__", str(tmp_path / "numpy" / "__init__.py"))
        monkeypatch.setattr(blas, "_loaded", list)
        return tmp_path

    @pytest.mark.parametrize("place", ["numpy.libs", "numpy/.dylibs"])
    def test_beside_numpy(self, site, place):
        (site / place).mkdir()
        for name in ("libscipy_openblas64_-1.so", "libgfortran.so"):
            (site / place / name).touch()
        assert blas._paths() == [site / place / "libscipy_openblas64_-1.so"]
        assert blas._libraries() == []  # it is not loaded, and no library either

    def test_numpys_own_copy_comes_first(self, site, monkeypatch):
        (site / "numpy.libs").mkdir()
        own = site / "numpy.libs" / "libscipy_openblas64_-1.so"
        own.touch()
        monkeypatch.setattr(blas, "_loaded", lambda: [Path("/usr/lib/libopenblas.so.0"), own])
        assert blas._paths() == [own, Path("/usr/lib/libopenblas.so.0")]

    def test_among_the_loaded_files(self, monkeypatch):
        listed = (
            "7f00-7f01 r-xp 00000000 fe:00 12 /usr/lib/openblas-pthread/libblas.so.3\n"
            "7f01-7f02 r--p 00001000 fe:00 12 /usr/lib/openblas-pthread/libblas.so.3\n"
            "7f03-7f04 r-xp 00000000 fe:00 13 /site/scipy.libs/libscipy_openblas-2.so\n"
            "7f05-7f06 r-xp 00000000 fe:00 14 /a folder/lib open blas.so\n"
            "7f07-7f08 rw-p 00000000 00:00 0 \n"
            "7f09-7f0a r-xp 00000000 fe:00 15 /usr/lib/libc.so.6\n"
        )
        monkeypatch.setattr(sys, "platform", "linux")
        monkeypatch.setattr(Path, "read_text", lambda self, **options: listed)
        assert list(blas._loaded()) == [
            Path("/a folder/lib open blas.so"),
            Path("/usr/lib/openblas-pthread/libblas.so.3"),
        ]

    def test_where_the_system_has_no_such_list(self, monkeypatch):
        monkeypatch.setattr(sys, "platform", "darwin")
        assert blas._loaded() == []
        monkeypatch.setattr(sys, "platform", "linux")

        def refuse(self, **options):
            raise PermissionError

        monkeypatch.setattr(Path, "read_text", refuse)
        assert blas._loaded() == []


def test_on_this_machine():
    """threadpoolctl asks the same library in its own way; a fresh process takes the kernels that it is told to."""
    controller = pytest.importorskip("threadpoolctl")
    pools = [pool for pool in controller.threadpool_info() if pool["internal_api"] == "openblas"]
    own = [pool["architecture"] for pool in pools if "scipy.libs" not in pool["filepath"]]
    if not own:
        pytest.skip("this NumPy is not on OpenBLAS")
    assert blas.lines()[0].endswith(f", {own[0]} kernels")
    if not blas._features().get("AVX2"):
        pytest.skip("the processor has no AVX2, whose kernels the other process is to take")
    done = subprocess.run(
        [sys.executable, "-c", "from gpulstm import blas; print(*blas.lines(), sep='\\n')"],
        env=os.environ | {"OPENBLAS_CORETYPE": "Nehalem", "PYTHONPATH": str(Path(__file__).resolve().parent.parent)},
        capture_output=True,
        text=True,
    )
    said = done.stdout.splitlines()
    assert said[0].endswith(", Nehalem kernels"), done.stdout + done.stderr
    assert "OPENBLAS_CORETYPE=" in said[1] and "Nehalem kernels do not use" in said[1]
