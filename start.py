"""Installs gpulstm for one job and starts it, with nothing but Python itself:

    python3 start.py course     opens the course in JupyterLab, on its first lesson
    python3 start.py test       runs all tests, notebooks included; further arguments go to pytest

Inside an active virtual environment it installs there. Elsewhere it makes one in .venv, because the Python of many
systems refuses installations of its own. Linux, macOS and Windows alike.
"""

# Read by whatever Python a machine has, so that an old one gets a sentence instead of a syntax error.
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.abspath(__file__))
# Where the browser opens, and also where the address leads that JupyterLab prints, for a browser on another machine.
FIRST = "/lab/tree/course/00_welcome.ipynb"
JOBS = {  # job: what to install, what to start
    "course": (".[course]", ["-m", "jupyterlab", "--ServerApp.root_dir=.", "--LabApp.default_url=" + FIRST]),
    "test": (".[test,kernelcheck]", ["-m", "pytest"]),
}
# What pip would do with one core, here with all of them, and without the packages' own tests.
COMPILE = (
    "import compileall, re, sysconfig; compileall.compile_dir(sysconfig.get_path('purelib'), "
    "quiet=2, workers=0, rx=re.compile(r'[\\\\/]tests?[\\\\/]'))"
)


def main(arguments):
    if sys.version_info < (3, 11):
        found = "%d.%d (%s)" % (sys.version_info[0], sys.version_info[1], sys.executable)
        sys.exit("gpulstm needs Python 3.11 or newer, and this is %s." % found)
    if not arguments or arguments[0] not in JOBS:
        sys.exit(__doc__)
    wanted, started = JOBS[arguments[0]]
    python = environment_python()
    os.chdir(ROOT)
    print("Installing into %s; the first time takes some minutes." % os.path.dirname(os.path.dirname(python)))
    sys.stdout.flush()  # ahead of what the next process writes
    run([python, "-m", "pip", "install", "--no-compile", "--editable", wanted])
    run([python, "-c", COMPILE])
    if arguments[0] == "course" and hasattr(os, "geteuid") and os.geteuid() == 0:
        started = started + ["--allow-root"]  # JupyterLab refuses root otherwise, and a container often has nobody else
    run([python] + started + arguments[1:])


def environment_python():
    """The Python of the active virtual environment, or else of .venv, made here if need be."""
    if sys.prefix != sys.base_prefix:
        return sys.executable
    folder = os.path.join(ROOT, ".venv")
    python = os.path.join(folder, *(("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")))
    # A .venv whose making was interrupted has no pip, and is made again.
    has_pip = [python, "-m", "pip", "--version"]
    if not (os.path.exists(python) and subprocess.run(has_pip, capture_output=True).returncode == 0):
        try:
            import ensurepip  # noqa: F401  Debian and Ubuntu ship venv without it
        except ImportError:
            sys.exit(
                "This Python cannot make virtual environments: its module ensurepip is missing.\n"
                "On Debian and Ubuntu install it with: sudo apt install python3-venv"
            )
        run([sys.executable, "-m", "venv", "--clear", folder])
    return python


def run(command):
    status = subprocess.run(command).returncode
    if status:
        sys.exit(status)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:  # how JupyterLab is usually left
        sys.exit(130)
