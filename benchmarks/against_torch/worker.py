"""What runs in a process of one side alone: it answers questions, and is silent in between."""

import os
import pickle
import signal
import sys
from typing import Any


def serve(side: str, threads: int, pipe: Any) -> None:
    """Answers what comes through the pipe until it is closed. Each answer is sent when this process' threads sleep."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks, which then closes the pipe
    fix_threads(threads)
    answers = _answers(side, threads)
    from .cpu import settle

    while True:
        try:
            question, arguments = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            answer = True, getattr(answers, question)(*arguments)
            settle()
        except Exception as error:  # it is the other process that knows what to do about it
            answer = False, _portable(error)
        pipe.send(answer)


def fix_threads(count: int) -> None:
    """BLAS libraries read these when they are loaded."""
    if "numpy" in sys.modules:
        raise RuntimeError("the number of threads can no longer be set, because NumPy has been imported already")
    for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"):
        os.environ[variable] = str(count)


def _answers(side: str, threads: int) -> Any:
    if side == "ours":
        from .answers_of_ours import Answers
    else:
        from .answers_of_torch import Answers
    return Answers(threads)


def _portable(error: Exception) -> Exception:
    """One that can be sent, without what it holds on to."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error.with_traceback(None)
