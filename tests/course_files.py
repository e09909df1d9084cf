"""The course's files, for the tests of the course."""

import functools
import importlib.util
import re
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
COURSE = ROOT / "course"
if str(COURSE) not in sys.path:  # as for a notebook, beside which `lab` lies
    sys.path.insert(0, str(COURSE))


def load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


BUILD = load("course_build", COURSE / "build.py")
LESSONS = sorted((COURSE / "src").glob(BUILD.LESSONS))
FORMS = [(source, solved) for source in BUILD.sources() for solved in BUILD.forms(source)]


@functools.cache
def read(source, solved=False):
    """A notebook as it is stored. Nobody may change it."""
    return nbformat.read(BUILD.notebook_path(source, solved), as_version=4)


def images(cell):
    """Outputs that are bare images."""
    kinds = ("image/png", "image/jpeg", "image/svg+xml")
    return [output for output in cell.outputs if any(kind in output.get("data", {}) for kind in kinds)]


def figure_tags(cell):
    html = "".join(output.get("data", {}).get("text/html", "") for output in cell.outputs)
    return re.findall(r"<img[^>]*>", html)


def printed(cell):
    return "".join(output.get("text", "") for output in cell.outputs)
