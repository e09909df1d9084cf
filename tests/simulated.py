"""The course's kernel simulator, for its tests: importing this makes ``lab`` importable."""

import sys
from pathlib import Path

import pytest

COURSE = Path(__file__).resolve().parent.parent / "course"
if str(COURSE) not in sys.path:
    sys.path.insert(0, str(COURSE))

from lab import kernels  # noqa: E402

HEAD = 'extern "C" __global__ void '


def run(source, grid, block, *arguments, name=None, **settings):
    """The launched kernel, in the simulator whether there is a GPU or not."""
    made = kernels.simulate(source, name)
    made(grid, block, *arguments, **settings)
    return made


def refusal(source, *launch, **settings):
    """The one finding of a kernel, or of its launch, that is refused."""
    with pytest.raises(kernels.KernelError) as caught:
        if launch:
            run(source, *launch, **settings)
        else:
            kernels.simulate(source)
    return caught.value.findings[0]
