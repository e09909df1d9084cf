"""Kernels for the check of the notebooks, each forked from a process that has imported what every lesson begins with.

Starting Python, Jupyter's kernel, NumPy and matplotlib takes half of the CPU time of most notebooks. A forked kernel
has a namespace, a working directory, an environment and random numbers of its own, and finds nothing imported that its
first cell would not import anyway; `lab` and gpulstm it imports itself.

This file is both sides: `use()` in the process of pytest, and, started as a program, the process that is forked.
"""

import atexit
import contextlib
import functools
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from importlib.metadata import EntryPoint

from jupyter_client.provisioning import KernelProvisionerFactory, LocalProvisioner

IMPORTED = ("ipykernel.kernelapp", "ipykernel.debugger", "numpy", "matplotlib.pyplot", "PIL.Image")


# ---- in pytest's process ----


def use() -> None:
    """From now on each kernel that this process starts is a forked one. On Linux; elsewhere forking is not safe."""
    if not sys.platform.startswith("linux"):
        return
    factory = KernelProvisionerFactory.instance()
    factory.provisioners["forked"] = EntryPoint("forked", f"{__name__}:ForkedProvisioner", factory.GROUP_NAME)
    factory.default_provisioner_name = "forked"  # of this process: a Jupyter server that a test starts has its own


class ForkedProvisioner(LocalProvisioner):
    """What jupyter_client asks for a kernel's process."""

    async def launch_kernel(self, cmd, **options):
        if cmd[:3] != [sys.executable, "-m", "ipykernel_launcher"]:
            raise ValueError(f"only a kernel of this Python's can be forked, not {cmd}")
        self.cwd = str(options.get("cwd") or os.getcwd())
        self.process = Forked(cmd[3:], self.cwd, dict(options["env"]))
        self.pid = self.pgid = self.process.pid
        return self.connection_info


class Forked:
    """As much of `subprocess.Popen` as a provisioner uses."""

    stdin = stdout = stderr = None

    def __init__(self, arguments: list[str], folder: str, environment: dict[str, str]):
        self.returncode: int | None = None
        self.server = server()
        self.pid = self.server.ask(arguments=arguments, folder=folder, environment=environment)

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self.server.ask(ended=self.pid)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        end = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            if end is not None and time.monotonic() > end:
                raise subprocess.TimeoutExpired("a forked kernel", timeout)
            time.sleep(0.01)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


class Server:
    """The process that is forked; one request at a time."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            env=os.environ | {"PYDEVD_DISABLE_FILE_VALIDATION": "1"},  # the debugger has a say about frozen modules
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for pytest
        )
        self.lock = threading.Lock()
        atexit.register(self.close)

    def ask(self, **request) -> int | None:
        with self.lock:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the process that kernels are forked from ended: status {self.process.wait()}")
        return json.loads(answer)

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):  # it was killed
            self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


@functools.cache
def server() -> Server:
    return Server()


# ---- in the process that is forked ----


def serve() -> None:
    del sys.path[0]  # this folder: a notebook finds `lab` through its own
    # As a kernel does before it runs a cell; matplotlib looks while it is imported.
    os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    for name in IMPORTED:
        __import__(name)
    if len(os.listdir("/proc/self/task")) > 1:
        raise RuntimeError(
            "a thread runs in the process that kernels are forked from: what it holds stays locked there"
        )
    gc.collect()
    gc.freeze()  # or each kernel's collections would copy all these pages
    for line in sys.stdin:
        request = json.loads(line)
        answer = ended(request["ended"]) if "ended" in request else fork(request)
        print(json.dumps(answer), flush=True)


def ended(pid: int) -> int | None:
    """The exit status as `subprocess` gives it, None before the end."""
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def fork(request: dict) -> int:
    pid = os.fork()
    if not pid:
        try:
            run_kernel(**request)
        finally:
            os._exit(1)  # never back into the loop
    try:
        os.setpgid(pid, pid)  # here too, so that the group is there when the answer is
    except OSError:  # the child was faster
        pass
    return pid


def run_kernel(arguments: list[str], folder: str, environment: dict[str, str]) -> None:
    os.setpgid(0, 0)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nothing, stream)
    backend = os.environ["MPLBACKEND"]
    os.environ.clear()
    os.environ.update(environment)
    os.environ.setdefault("MPLBACKEND", backend)
    os.chdir(folder)
    parent = f"--IPKernelApp.parent_handle={os.getppid()}"  # with whom a kernel ends
    sys.argv = ["ipykernel_launcher", *arguments, parent]

    from ipykernel import kernelapp

    if (
        "numpy.random" in sys.modules
    ):  # some versions of NumPy import it, and the fork would have the same numbers each time
        sys.modules["numpy.random"].seed()  # Python's own generator is seeded anew by itself
    kernelapp.launch_new_instance()
    os._exit(0)


if __name__ == "__main__":
    serve()
