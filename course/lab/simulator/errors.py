"""What the simulator has to say about a kernel: findings, and the one exception that carries them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: what it is, in which line, and which thread met it.

    ``block`` and ``thread`` are tuples (x, y, z), or None where the mistake belongs to no thread.
    """

    kind: str  # "out of bounds", "race", "syntax", ...: for checks
    message: str  # one sentence for the learner
    line: int | None = None  # counted from 1, as the source was written
    text: str = ""  # that line
    block: tuple[int, int, int] | None = None
    thread: tuple[int, int, int] | None = None

    def __str__(self) -> str:
        if self.line is None:
            return self.message
        return f"Line {self.line}: {self.message}\n    {self.text}"


class KernelError(Exception):
    """A kernel that cannot run, or that did something it must not. ``findings`` has the details."""

    def __init__(self, *findings: Finding) -> None:
        super().__init__("\n".join(map(str, findings)))
        self.findings = findings


def launch_error(message: str) -> KernelError:
    """A mistake in the call of a kernel rather than in its source."""
    return KernelError(Finding("launch", message))


def index_text(index: tuple[int, int, int]) -> str:
    """(3, 0, 0) is called 3, which is what a learner with one dimension has in mind."""
    x, y, z = index
    return str(x) if y == z == 0 else f"({x}, {y})" if z == 0 else f"({x}, {y}, {z})"


def who(thread: tuple[int, int, int], block: tuple[int, int, int]) -> str:
    return f"thread {index_text(thread)} of block {index_text(block)}"
