"""Forked kernels: a notebook finds in one what it finds in a kernel of its own, and nothing of another notebook's."""

import os
import sys
import time

import numpy as np
import pytest
from jupyter_client.manager import KernelManager

from tests.course_files import COURSE

if not sys.platform.startswith("linux"):
    pytest.skip("kernels are forked on Linux only", allow_module_level=True)

import forked_kernels  # isort: skip - course_files puts its folder on the path


class Notebook:
    """A running kernel, and what its cells print."""

    def __init__(self, folder, **environment):
        self.manager = KernelManager(kernel_name="python3")
        self.manager.start_kernel(cwd=str(folder), env=os.environ | environment)
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)

    def run(self, code: str) -> str:
        told = []
        self.client.execute_interactive(code, timeout=60, output_hook=lambda message: told.append(message["content"]))
        return "".join(content.get("text") or content.get("ename", "") for content in told).strip()

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@pytest.fixture(scope="module", autouse=True)
def forked():
    factory = forked_kernels.KernelProvisionerFactory.instance()
    before = factory.default_provisioner_name
    forked_kernels.use()
    yield
    factory.default_provisioner_name = before


@pytest.fixture(scope="module")
def two(forked, tmp_path_factory):
    folder = tmp_path_factory.mktemp("elsewhere")
    notebooks = Notebook(COURSE, WHO="one"), Notebook(folder, WHO="two")
    yield *notebooks, folder
    for notebook in notebooks:
        notebook.close()


def test_they_come_from_one_process_and_are_two(two):
    pids = {int(notebook.run("import os; print(os.getpid())")) for notebook in two[:2]}
    assert pids == {notebook.manager.provisioner.pid for notebook in two[:2]} and len(pids) == 2
    parents = {notebook.run("print(os.getppid())") for notebook in two[:2]}
    assert parents == {str(forked_kernels.server().process.pid)}


@pytest.mark.parametrize(
    "name", ["np", "numpy", "plt", "matplotlib.pyplot", "lab", "gpulstm", "serve", "IMPORTED", "left_behind"]
)
def test_a_name_that_nobody_imported_is_unknown(two, name):
    two[0].run("left_behind = 1")
    assert two[1].run(name) == "NameError"


def test_the_lessons_own_packages_are_not_imported_yet(two):
    code = (
        "import sys; print(sorted({name.split('.')[0] for name in sys.modules} & {'lab', 'gpulstm', 'torch', 'scipy'}))"
    )
    assert two[1].run(code) == "[]"


def test_lab_is_found_beside_the_notebook_alone(two):
    assert two[0].run("import lab.lessons") == ""
    assert two[1].run("import lab.lessons") == "ModuleNotFoundError"


def test_each_has_its_folder_and_its_environment(two):
    code = "import os; print(os.getcwd(), os.environ['WHO'], os.environ['MPLBACKEND'])"
    backend = "module://matplotlib_inline.backend_inline"
    assert two[0].run(code) == f"{COURSE} one {backend}"
    assert two[1].run(code) == f"{two[2]} two {backend}"


def test_each_has_random_numbers_of_its_own(two):
    code = "import random, numpy; print(random.random(), numpy.random.random(), numpy.random.default_rng().random())"
    numbers = [notebook.run(code).split() for notebook in two[:2]]
    assert all(a != b for a, b in zip(*numbers, strict=True))
    assert np.array(numbers, float).shape == (2, 3)


def test_a_figure_is_shown_below_its_cell(two):
    two[0].run("import matplotlib.pyplot as plt")
    told = []
    two[0].client.execute_interactive("_ = plt.plot([1, 2])", timeout=60, output_hook=told.append)
    assert [m["msg_type"] for m in told if "image/png" in m["content"].get("data", {})] == ["display_data"]


def test_an_interrupt_reaches_the_cell_and_a_kill_ends_the_kernel(forked):
    notebook = Notebook(COURSE)
    identity = notebook.client.execute("print('begun', flush=True)\nimport time\ntime.sleep(60)")
    while notebook.client.get_iopub_msg(timeout=60)["content"].get("text") != "begun\n":
        pass
    notebook.manager.interrupt_kernel()
    reply = notebook.client.get_shell_msg(timeout=30)
    assert reply["parent_header"]["msg_id"] == identity and reply["content"]["ename"] == "KeyboardInterrupt"
    process = notebook.manager.provisioner.process
    assert process.poll() is None
    notebook.close()
    assert process.returncode == -9
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)


def test_kernels_end_with_the_process_that_they_were_forked_from(forked, monkeypatch):
    own = forked_kernels.Server()
    monkeypatch.setattr(forked_kernels, "server", lambda: own)
    notebook = Notebook(COURSE)
    notebook.client.stop_channels()
    own.process.kill()
    own.close()
    end = time.monotonic() + 30
    while (runs := is_running(notebook.manager.provisioner.pid)) and time.monotonic() < end:
        time.sleep(0.05)
    notebook.manager.cleanup_resources()
    assert not runs


def is_running(pid: int) -> bool:
    """A process that has ended and that nobody has asked about yet does not run."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
