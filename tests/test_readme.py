"""The README: its examples run and print what it says, and its commands and links lead somewhere."""

import contextlib
import io
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests import backends

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
# (code, what it prints)
EXAMPLES = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", TEXT, re.DOTALL)
ON_NUMPY = [example for example in EXAMPLES if "import cupy" not in example[0]]
ON_CUPY = [example for example in EXAMPLES if "import cupy" in example[0]]


def assert_prints(code, expected):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {})
    assert printed.getvalue() == expected


def test_every_example_is_one_that_is_run():
    assert len(EXAMPLES) == TEXT.count("```python") == len(ON_NUMPY) + len(ON_CUPY)
    assert ON_NUMPY and ON_CUPY


@pytest.mark.parametrize("code, expected", ON_NUMPY)
def test_an_example_prints_what_the_readme_says(code, expected):
    assert_prints(code, expected)


class TestOnCuPy:
    BACKENDS = backends.KERNELS

    @pytest.mark.parametrize("code, expected", ON_CUPY)
    def test_an_example_prints_what_the_readme_says(self, code, expected, backend):
        assert_prints(code, expected)


def test_the_cupy_example_is_the_numpy_one_on_other_arrays():
    def bare(code):
        lines = [re.sub(r"\s*#.*", "", line) for line in code.splitlines() if not line.startswith("import cupy")]
        code = "\n".join(lines).replace(", xp=cp", "")
        return re.sub(r"cp\.as(?:array|numpy)\(((?:[^()]|\((?:[^()]|\([^()]*\))*\))*)\)", r"\1", code)

    assert bare(ON_CUPY[0][0]) == bare(ON_NUMPY[0][0])


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#]+)\)", TEXT))
def test_a_link_leads_to_a_file(target):
    assert (ROOT / target).exists()


@pytest.mark.skipif(os.name == "nt", reason="reads .ci/run's awk line with bash and awk, which Windows lacks")
def test_the_continuous_integration_runs_the_readmes_test_command():
    command = re.search(r"<!-- test command -->\n```sh\n(.+)\n```", TEXT)[1]
    assert command == "python3 start.py test"
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    reader = re.search(r"^command=\$\((awk .* README\.md)\)$", script, re.MULTILINE)[1]
    read = subprocess.run(["bash", "-c", reader], cwd=ROOT, capture_output=True, text=True, check=True)
    assert read.stdout.strip() == command
    assert command not in script, ".ci/run reads the command instead of having its own"


def test_the_two_commands_are_start_pys_two_jobs():
    commands = re.findall(r"<!-- (\w+) command -->\n```sh\npython3 start\.py (\w+)\n```", TEXT)
    assert commands == [("course", "course"), ("test", "test")]


def test_the_workflow_pins_its_actions_and_may_only_read():
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    uses = re.findall(r"uses: (\S+)", workflow)
    assert uses and all(re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", action) for action in uses)
    assert "\npermissions:\n  contents: read\n\n" in workflow and workflow.count("permissions:") == 1
