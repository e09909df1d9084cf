"""Several threads that do the same at the same time, and give way to each other as often as Python lets them."""

import sys
import threading
from collections.abc import Callable, Iterable


def run(work: Callable[[int], None], numbers: Iterable[int]) -> None:
    """Runs ``work(number)`` in a thread for each number, to the end. Raises the first error of any of them."""
    wrong: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            work(number)
        except BaseException as error:  # noqa: BLE001 - else lost with its thread, and the test would pass
            wrong.append(error)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=guarded, args=(number,)) for number in numbers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    if wrong:
        raise wrong[0]
