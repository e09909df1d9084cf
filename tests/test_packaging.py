"""What a user installs: the kernels are found however gpulstm came, and importing it stays light."""

import json
import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import numpy
import pytest

from gpulstm.cuda import sources
from gpulstm.native import library

ROOT = Path(__file__).resolve().parent.parent

# Says where gpulstm came from and what it reads there.
PROBE = """
import json, gpulstm
from gpulstm.cuda import sources
print(json.dumps({
    "package": gpulstm.__file__,
    "folder": str(sources.kernel_folder()),
    "texts": {name: sources.read(name) for name in sources.names()},
}))
"""


def run_python(python, *arguments, cwd, **environment):
    """The standard output of one Python process that sees no PYTHONPATH but the one given."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")} | environment
    done = subprocess.run([python, *arguments], cwd=cwd, env=env, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """The sdist, and the wheel that is built from that sdist: so the sdist lacks nothing that a build needs."""
    folder = tmp_path_factory.mktemp("dist")
    run_python(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT), cwd=folder)
    return {"sdist": next(folder.glob("*.tar.gz")), "wheel": next(folder.glob("*.whl"))}


@pytest.fixture
def fresh_python(tmp_path):
    """The Python of a new virtual environment without gpulstm, which borrows NumPy and the build tools from ours."""
    folder = tmp_path / "environment"
    venv.create(folder)
    scripts = "Scripts" if os.name == "nt" else "bin"
    python = folder / scripts / ("python.exe" if os.name == "nt" else "python")
    own = Path(run_python(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
    # A folder named in a .pth file is searched last, and its own .pth files, such as an editable install's, are unread.
    (own / "borrowed.pth").write_text(str(Path(numpy.__file__).parent.parent), encoding="utf-8")
    return python


def install(python, *what, cwd):
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    run_python(sys.executable, "-m", "pip", "--python", str(python), "install", *options, *map(str, what), cwd=cwd)


def assert_reads_the_kernels(python, *, cwd, below, **environment):
    found = json.loads(run_python(python, "-c", PROBE, cwd=cwd, **environment))
    assert Path(found["package"]).is_relative_to(below), "another gpulstm was imported"
    assert Path(found["folder"]).is_relative_to(below), "another gpulstm's kernels were read"
    assert found["texts"] == {name: sources.read(name) for name in sources.names()}


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_an_installed_distribution_reads_every_kernel(kind, distributions, fresh_python, tmp_path):
    install(fresh_python, distributions[kind], cwd=tmp_path)
    assert_reads_the_kernels(fresh_python, cwd=tmp_path, below=fresh_python.parent.parent.resolve())


def test_an_editable_install_reads_the_checkouts_kernels_and_copies_none(fresh_python, tmp_path):
    install(fresh_python, "--editable", ROOT, cwd=tmp_path)
    assert_reads_the_kernels(fresh_python, cwd=tmp_path, below=ROOT)
    assert not list(fresh_python.parent.parent.rglob("lstm_*.cu"))


def test_a_plain_checkout_reads_every_kernel(fresh_python, tmp_path):
    assert_reads_the_kernels(fresh_python, cwd=tmp_path, below=ROOT, PYTHONPATH=str(ROOT))


def test_the_wheel_is_typed_licensed_and_carries_only_the_package(distributions):
    names = zipfile.ZipFile(distributions["wheel"]).namelist()
    assert "gpulstm/py.typed" in names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert {f"gpulstm/kernels/{path.name}" for path in (ROOT / "kernels").glob("*.cu*")} <= set(names)
    assert {f"gpulstm/native/{name}" for name in library.SOURCES} <= set(names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"gpulstm"}


def test_the_sdist_carries_what_the_tests_need(distributions):
    with tarfile.open(distributions["sdist"]) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert {"pyproject.toml", "README.md", "LICENSE", "start.py", ".ci/run"} <= names
    for folder in ("gpulstm", "kernels", "benchmarks", "tests", "course"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in {".py", ".cu", ".cuh", ".hpp", ".cpp", ".c", ".h", ".ipynb", ".md"} and not_ignored(path):
                assert path.relative_to(ROOT).as_posix() in names


def not_ignored(path):
    return not any(part in {"__pycache__", ".build", ".ipynb_checkpoints", "checkpoints"} for part in path.parts)


def test_the_version_is_the_same_everywhere(distributions):
    version = run_python(sys.executable, "-c", "import gpulstm; print(gpulstm.__version__)", cwd=ROOT).strip()
    assert distributions["wheel"].name.startswith(f"gpulstm-{version}-")
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


HEAVY = ("cupy", "cupy_backends", "torch", "jax", "onnx", "keras", "h5py", "matplotlib", "scipy", "safetensors", "tqdm")


@pytest.mark.parametrize(
    "use",
    [
        "import gpulstm",
        "import gpulstm.nn, gpulstm.training, gpulstm.ops, gpulstm.cuda.sources",
        "import numpy, gpulstm as gl; lstm = gl.LSTM(2, 3, rng=numpy.random.default_rng(0));"
        "x = numpy.ones((4, 5, 2), 'float32'); y, state, cache = lstm.forward(x); lstm.backward(cache, y);"
        "out, cache = gl.nn.Linear(2, 1).forward(x); gl.nn.mean_squared_error(out, out)",
        "import numpy, gpulstm as gl; data = numpy.ones((4, 5, 2), 'float32'), numpy.ones((4, 5, 1), 'float32');"
        "gl.fit(gl.nn.Linear(2, 1), gl.nn.mean_squared_error, data, steps=3, progress=False)",
    ],
    ids=["import", "submodules", "an LSTM on NumPy", "training without a bar and checkpoints"],
)
def test_nothing_heavy_is_imported_but_numpy(use, tmp_path):
    """An array library that a process has not imported it does not use: its import costs seconds, and may touch a GPU.
    What gl.fit needs is imported when it is needed."""
    asked = f"import sys; {use}; print([name for name in {HEAVY} if name in sys.modules])"
    assert run_python(sys.executable, "-c", asked, cwd=tmp_path, PYTHONPATH=str(ROOT)).strip() == "[]"


def test_importing_takes_under_three_tenths_of_a_second(tmp_path):
    timed = "import time; start = time.process_time(); import gpulstm; print(time.process_time() - start)"
    runs = [float(run_python(sys.executable, "-c", timed, cwd=tmp_path, PYTHONPATH=str(ROOT))) for _ in range(7)]
    assert min(runs) < 0.3, f"import took {sorted(runs)} seconds of a processor"
