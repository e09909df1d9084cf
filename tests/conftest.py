"""Which arrays the tests run on, and what the summary says about those that did not run."""

import gc
import importlib.util
import os
import signal
import sys

# One BLAS thread for each worker, set before NumPy loads its BLAS: more would fight over the same cores.
for _variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"):
    os.environ.setdefault(_variable, "1")

# The tests need JAX's arrays, not its GPU, of which each worker's JAX would take three quarters of the memory.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

# Most of JAX's time goes into compiling one operation after another, for sizes that come once.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

# Keras computes with whatever it finds first; here it is PyTorch, which the other comparisons need anyway.
os.environ.setdefault("KERAS_BACKEND", "torch")

# Whatever somebody has compiled on this machine, the tests compile what they test.
os.environ.setdefault("GPULSTM_CPU", "numpy")

import pytest  # noqa: E402

from tests import backends  # noqa: E402


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--gpu",
        action="store_true",
        help="run the same test bodies on a real GPU through CuPy too; without a usable GPU this is an error",
    )


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job; some tests press Ctrl-C
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if importlib.util.find_spec("array_api_strict"):  # tests on other arrays do without it
        from tests import quick_strict

        quick_strict.speed_up()
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):  # who hands out collects nothing
        gc.disable()  # a million objects are made until all tests are collected, and hardly one of them is dropped
    if config.getoption("--gpu"):
        reason = backends.why_no_gpu()
        if reason:
            raise pytest.UsageError(f"--gpu was asked for and there is no GPU to run on: {reason}")


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes ``backend`` runs once on each of them, or on those that its class or module names in
    ``BACKENDS``."""
    if "backend" not in metafunc.fixturenames:
        return
    wanted = getattr(metafunc.cls, "BACKENDS", None) or getattr(metafunc.module, "BACKENDS", backends.ALL)
    gpu = metafunc.config.getoption("--gpu")
    names = [name for name in wanted if name != backends.GPU or gpu]
    metafunc.parametrize("backend", names, indirect=True)


@pytest.fixture
def backend(request: pytest.FixtureRequest):
    """A `backends.Backend`, open for the length of one test."""
    with backends.open_backend(request.param) as opened:
        yield opened


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    if config.getoption("--gpu"):
        line = f"GPU tests ran on {backends.gpu_name()}"
    else:
        instead = (
            "The kernels ran on the CPU." if sys.platform.startswith("linux") else "Nor did the kernels on the CPU."
        )
        line = f"GPU tests did not run: they need a GPU and the option --gpu. {instead}"
    terminalreporter.write_sep("-", line)
