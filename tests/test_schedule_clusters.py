"""The kernels that run in clusters of blocks, under the sanitizers; and with something taken out of them, to see that
it is noticed: waiting for the other blocks above all, without which a block reads what has not come yet."""

import numpy as np
import pytest

from tests.backends import Backend
from tests.cuda_on_cpu import LaunchError, cupy_on_cpu
from tests.problems import infer
from tests.schedule_cases import check, laid_out_by_hand
from tests.test_kernel_sanitizers import without
from tests.test_schedule_sanitizers import (
    BACKWARD,
    BEYOND,
    CLUSTER,
    DIRECTIONS,
    FORWARD,
    Layout,
    given_for,
    noticed,
    train,
)

ONE_CLUSTER = CLUSTER._replace(batch=2, groups=1)  # 1024 threads
LONGER = ONE_CLUSTER._replace(steps=5)
FILES = {direction: f"lstm_cluster_{direction}.cu" for direction in DIRECTIONS}
BEGIN_ARRIVE, BEGIN_WAIT = "\n    cluster_arrive();  // nobody", "\n    cluster_wait();\n"  # of both files
WAITS = {
    FORWARD: ["if (count > 0) barrier_wait(&arrived[i], (count - 1) / AHEAD & 1);"],
    BACKWARD: [
        "barrier_wait(&arrived[(i + 1) % PLACES], (count - 1) / PLACES & 1);",
        "barrier_wait(&arrived[last], (steps - 1) / PLACES & 1);",
    ],
}
FOUR_BLOCKS = Layout("cluster", (4, 2, 4), hidden=70, batch=6, blocks=4, groups=2, share=4)


class TestClean:
    @pytest.mark.parametrize(
        ("direction", "layout", "directions"),
        [(FORWARD, CLUSTER, 2), (BACKWARD, CLUSTER, 2), (BACKWARD, FOUR_BLOCKS, 1)],
    )
    def test_addresses(self, direction, layout, directions):
        given = given_for(layout, directions=directions)
        check(train(layout, direction, given, "asan", thread_order="random", seed=1), given)

    @pytest.mark.parametrize("direction", DIRECTIONS)
    def test_races(self, direction):
        given = given_for(ONE_CLUSTER, bias=False)
        check(train(ONE_CLUSTER, direction, given, "tsan", thread_order="random", seed=2), given)


def run(direction: str, **settings) -> None:
    given = given_for(LONGER, lengths=None)
    check(train(LONGER, direction, given, "fibers", **settings), given)


def goes_wrong(direction: str, **settings) -> bool:
    try:
        run(direction, spin_limit=100, **settings)
    except LaunchError as error:
        assert "has returned" in str(error) or "deadlock" in str(error)
        return True
    except AssertionError:
        return True
    return False


def is_noticed(direction: str) -> bool:
    """With some order of threads and blocks, one block late or not."""
    orders = ("ascending", "random")
    return any(goes_wrong(direction, thread_order=o, seed=1, late_block=b) for o in orders for b in (0, 1))


class TestHandingOver:
    def test_nothing_goes_wrong_as_it_is(self):
        assert not any(is_noticed(direction) for direction in DIRECTIONS)

    @pytest.mark.parametrize(("direction", "which"), [(FORWARD, 0), (BACKWARD, 0), (BACKWARD, 1)])
    def test_not_waiting_for_what_others_send(self, monkeypatch, direction, which):
        without(monkeypatch, FILES[direction], WAITS[direction][which], 1)
        assert is_noticed(direction)

    @pytest.mark.parametrize("direction", DIRECTIONS)
    def test_without_the_barrier_of_the_cluster_at_the_beginning(self, monkeypatch, direction):
        without(monkeypatch, FILES[direction], BEGIN_ARRIVE, 1, "  // nobody")
        without(monkeypatch, FILES[direction], BEGIN_WAIT, 1, "\n")
        with pytest.raises(LaunchError, match="may not have begun"):
            run(direction)

    @pytest.mark.parametrize(
        ("direction", "bytes", "wrong"),
        [
            (FORWARD, "4 * hidden * (left <", "4 + 4 * hidden * (left <"),
            (BACKWARD, "4 * ((hidden + UNITS - 1)", "4 + 4 * ((hidden + UNITS - 1)"),
        ],
    )
    def test_more_announced_than_comes(self, monkeypatch, direction, bytes, wrong):
        without(monkeypatch, FILES[direction], bytes, 1, wrong)
        with pytest.raises(LaunchError, match="deadlock"):
            run(direction, spin_limit=100)

    def test_less_announced_than_comes(self, monkeypatch):
        without(monkeypatch, FILES[FORWARD], "4 * hidden * (left <", 1, "4 * (hidden - 1) * (left <")
        assert is_noticed(FORWARD)

    def test_of_the_block_before_the_products_back(self, monkeypatch):
        without(monkeypatch, FILES[BACKWARD], "__syncthreads();", 1)
        assert is_noticed(BACKWARD)

    def test_one_copy_of_h_instead_of_two(self, monkeypatch):
        without(monkeypatch, FILES[FORWARD], "h_now[i][pass", 1, "h_now[0][pass")
        without(monkeypatch, FILES[FORWARD], "h_now[sends_to][pass", 1, "h_now[0][pass")
        assert is_noticed(FORWARD)

    def test_lanes_that_send_before_all_have_read(self, monkeypatch):
        without(monkeypatch, FILES[FORWARD], "__syncwarp();", 1)
        noticed(ONE_CLUSTER, FORWARD, "tsan", "data race")


class TestAddresses:
    """A guard that lets one too many through."""

    @pytest.mark.parametrize(
        ("direction", "line", "wrong"),
        [
            (FORWARD, "mine[pass] = exists && sequence < batch;", "mine[pass] = exists && sequence <= batch;"),
            (BACKWARD, "from < hidden && to < hidden;", "from <= hidden && to <= hidden;"),
            (BACKWARD, "if (!owner || count >= steps) return;", "if (!owner || count > steps) return;"),
        ],
    )
    def test_are_noticed(self, monkeypatch, direction, line, wrong):
        without(monkeypatch, FILES[direction], line, 1, wrong)
        noticed(CLUSTER, direction, "asan", BEYOND)

    def test_lengths_forgotten(self, monkeypatch):
        for direction, line in ((FORWARD, "if (step < length[pass])"), (BACKWARD, "if (step < length)")):
            with monkeypatch.context() as patch:
                without(patch, FILES[direction], line, 1, "if (true)")
                with pytest.raises(AssertionError, match="is off by"):
                    given = given_for(CLUSTER)
                    check(train(CLUSTER, direction, given, "fibers"), given)


class TestGroups:
    def test_clusters_do_not_wait_for_each_other(self):
        """Five of them on a device that has room for one: they run one after another."""
        layout = CLUSTER._replace(batch=9, groups=5)
        given = given_for(layout)
        with cupy_on_cpu(multiprocessors=2, block_order="random", seed=3) as cupy:
            with laid_out_by_hand(forward=layout.choice(FORWARD)):
                check(infer(Backend("cupy-on-cpu", cupy), given), given, infer)

    def test_how_many_sequences_a_cluster_takes_changes_no_bit(self):
        found = []
        for share, groups in ((1, 7), (2, 4), (4, 2), (8, 1)):
            layout = Layout("cluster", (2, 1, share), hidden=21, batch=7, blocks=2, groups=groups, share=share)
            with cupy_on_cpu() as cupy, laid_out_by_hand(**{d: layout.choice(d) for d in DIRECTIONS}):
                found.append(infer(Backend("cupy-on-cpu", cupy), given_for(layout)))
        for other in found[1:]:
            for name, array in found[0].items():
                np.testing.assert_array_equal(other[name], array, err_msg=name)
