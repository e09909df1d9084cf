"""Each side in a process of its own, as on a CPU.

In one process each side's threads would wait for work on the other side's cores: beside OpenBLAS' threads PyTorch's
took up to twenty times as long as alone. Only one of the two processes computes at a time. It answers when its threads
sleep, and then waits for the next question, as the other one does meanwhile.
"""

import multiprocessing
import os
import tempfile
from pathlib import Path
from typing import Any

from . import cpu, worker
from .cpu import Sample
from .grid import Cell
from .others import Others


class TwoProcesses:
    """The same methods as `OneProcess` has."""

    rounds = cpu.Cpu.rounds
    out_of_memory = cpu.Cpu.out_of_memory

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.folder = tempfile.TemporaryDirectory(prefix="gpulstm-compare-")
        self.problem, *self.results = (
            Path(self.folder.name) / f"{name}.npz" for name in ("problem", "first", "second")
        )
        self.ours, self.theirs = Process("ours", threads), Process("torch", threads)
        self.sides: dict[str, Remote] = {}

    def about(self) -> dict[str, Any]:
        """The threads and kernels of each process, and what the environment tells both."""
        found: dict[str, Any] = {"asked for": self.threads, "torch": self.theirs.ask("number_of_threads")}
        pools: list | str = []
        for name, process in (("gpulstm", self.ours), ("torch", self.theirs)):
            of_process = process.ask("thread_pools")
            if isinstance(of_process, str):
                pools = of_process
            elif isinstance(pools, list):
                pools += [{"process": name} | pool for pool in of_process]
        return {"threads": found | {"libraries": pools}, "environment": cpu.environment()}

    def begin(self, cell: Cell) -> str | None:
        refusal = self.ours.ask("begin", cell)
        self.theirs.ask("begin", cell, None if refusal else self.problem)
        self.sides = {"torch": Remote(self.theirs)}
        if refusal is None:
            self.ours.ask("load", self.problem)
            self.sides = {"ours": Remote(self.ours), "torch": Remote(self.theirs)}
        return refusal

    def check(self) -> dict[str, Any]:
        for path in self.results:
            self.ours.ask("results", path)
        return self.theirs.ask("check", *self.results)

    def plan(self) -> str | None:
        return self.ours.ask("plan")

    def renew(self) -> None:
        self.ours.ask("renew")
        self.others = Others([self.ours.process.pid, self.theirs.process.pid, os.getpid()])

    def conditions(self) -> dict[str, Any]:
        return {"cores_of_others": self.others.cores()}

    def end(self) -> None:
        self.sides = {}

    def release(self) -> None:
        """A process that has ended is started again when it is asked next; each drops a cell when the next begins."""

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()
        self.folder.cleanup()


class Remote:
    """`Turns` in another process."""

    def __init__(self, process: "Process") -> None:
        self.process = process

    def prepare(self, of_pass: str) -> None:
        self.process.ask("prepare", of_pass)

    def peak_bytes(self) -> None:
        """Not measured, as `Cpu` says."""

    def warm_up(self, seconds: float) -> None:
        self.process.ask("warm_up", seconds)

    def sample(self, seconds: float) -> list[Sample]:
        return self.process.ask("sample", seconds)


class Process:
    """Answers one question at a time; begins with the first one, and anew with the next one after it has died."""

    def __init__(self, side: str, threads: int) -> None:
        self.side, self.threads = side, threads
        self.process: Any = None

    def ask(self, question: str, *arguments: Any) -> Any:
        """The answer; what it raises there is raised here."""
        if self.process is None:
            self._start()
        try:
            self.pipe.send((question, arguments))
            good, answer = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join(timeout=10)
            code = self.process.exitcode
            self.close()
            raise RuntimeError(
                f"the process of {self.side} ended with exit code {code} when asked for {question}"
            ) from None
        if not good:
            raise answer
        return answer

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")  # a forked one would have this one's libraries, without threads
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=worker.serve, args=(self.side, self.threads, theirs), daemon=True)
        self.process.start()
        theirs.close()  # so that a read here ends when that process does

    def close(self) -> None:
        if self.process is None:
            return
        self.pipe.close()  # it ends when it sees that
        self.process.join(timeout=1)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.process = None
