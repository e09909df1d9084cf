"""How the notebooks are checked: pytest --nbval course runs each, and compares what its cells print."""

import os
import tempfile
from pathlib import Path

import forked_kernels

# Set before any kernel is started, which inherits them.
for _variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"):
    os.environ.setdefault(_variable, "1")
os.environ["GPULSTM_COURSE_STATIC"] = "1"
_scratch = tempfile.TemporaryDirectory()  # a progress file to throw away: nobody's own is touched
os.environ["GPULSTM_COURSE_PROGRESS"] = str(Path(_scratch.name) / "progress.json")


def pytest_configure(config):
    forked_kernels.use()
    # Figures differ in their bytes from one version of matplotlib to the next; what is said about them does not.
    if hasattr(config.option, "nbval_sanitize_with") and config.option.nbval_sanitize_with is None:
        config.option.nbval_sanitize_with = str(Path(__file__).with_name("nbval.cfg"))
