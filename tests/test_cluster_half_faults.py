"""The cluster kernels of 16 bits under the sanitizers; and with something taken out, to see that it is noticed."""

import numpy as np
import pytest

from tests.cuda_on_cpu import LaunchError
from tests.half_recurrence import HalfCase, check, half_case
from tests.test_cluster_half import BACKWARD, DIRECTIONS, FORWARD, SMALL, Choice, by_hand, run, usual
from tests.test_kernel_sanitizers import without

FILES = {direction: f"lstm_cluster_half_{direction}.cu" for direction in DIRECTIONS}


def few(direction: str) -> tuple[HalfCase, Choice]:
    """One cluster, two blocks of which have units."""
    case = half_case("bfloat16", 3, 3, 37, lengths=np.array([3, 0, 2]))
    return case, by_hand(direction, SMALL, "bfloat16", 3, 3)


class TestSanitizers:
    @pytest.mark.parametrize("mode", ["asan", "tsan"])
    @pytest.mark.parametrize("direction", DIRECTIONS)
    def test_clean(self, direction, mode):
        case, choice = few(direction)
        check(*run(direction, case, choice, mode, thread_order="random", seed=1), "bfloat16")


def goes_wrong(direction: str, **settings) -> bool:
    case, choice = usual("float16", direction, steps=5)
    try:
        check(*run(direction, case, choice, spin_limit=100, **settings), "float16")
    except LaunchError as error:
        assert "deadlock" in str(error) or "has returned" in str(error)
        return True
    except AssertionError:
        return True
    return False


def is_noticed(direction: str) -> bool:
    orders = ("ascending", "random")
    return any(goes_wrong(direction, thread_order=o, seed=1, late_block=b) for o in orders for b in (0, 1))


class TestHandingOver:
    def test_nothing_goes_wrong_as_it_is(self):
        assert not any(is_noticed(direction) for direction in DIRECTIONS)

    @pytest.mark.parametrize(
        ("direction", "line"),
        [
            (FORWARD, "if (count > 0) barrier_wait(&arrived[i], (count - 1) / COPIES & 1);"),
            (FORWARD, "__syncthreads();"),
            (BACKWARD, "barrier_wait(&arrived[(i + 1) % PLACES], (count - 1) / PLACES & 1);"),
            (BACKWARD, "__syncthreads();"),
        ],
    )
    def test_not_waiting(self, monkeypatch, direction, line):
        without(monkeypatch, FILES[direction], line, 1)
        assert is_noticed(direction)

    def test_more_announced_than_comes(self, monkeypatch):
        without(monkeypatch, FILES[BACKWARD], "16 * ((here + 3) / 4)", 1, "16 * ((here + 7) / 4)")
        with pytest.raises(LaunchError, match="deadlock"):
            run(BACKWARD, *usual("float16", BACKWARD), spin_limit=100)

    def test_one_copy_of_h_instead_of_two(self, monkeypatch):
        without(monkeypatch, FILES[FORWARD], "h_now + (i * SEQUENCES", 1, "h_now + (0 * SEQUENCES")
        without(monkeypatch, FILES[FORWARD], "h_now + (sends_to * SEQUENCES", 1, "h_now + (0 * SEQUENCES")
        assert is_noticed(FORWARD)
