"""The kernels that run all time steps in one launch, under AddressSanitizer, UBSan and ThreadSanitizer; and then with
something taken out of them, to see that it is noticed.

ThreadSanitizer takes its time with 512 threads in a block, so a pass runs under it alone, the other one without.
"""

from functools import partial
from typing import NamedTuple

import numpy as np
import pytest

import gpulstm as gl
from gpulstm import options
from gpulstm.cuda import resident_layouts
from gpulstm.cuda.planner import Choice
from tests.backends import Backend
from tests.cuda_on_cpu import LaunchError, SanitizerError, cupy_on_cpu
from tests.problems import Problem, infer
from tests.schedule_cases import NUMPY, SCHEDULES, check, goes_wrong, laid_out_by_hand, small_problem
from tests.test_kernel_sanitizers import without

FORWARD, BACKWARD = "forward", "backward"
BEYOND = "heap-buffer-overflow|use-after-poison|SEGV"
DIRECTIONS = (FORWARD, BACKWARD)
NOT_THERE = np.array(0xFFFFFFFF, np.uint32).view(np.float32)


class Layout(NamedTuple):
    """A schedule and sizes that are no multiples of what a block takes."""

    schedule: str
    tiles: tuple[int, ...]
    hidden: int
    batch: int
    blocks: int
    groups: int
    share: int
    steps: int = 3

    def choice(self, direction: str) -> Choice:
        kernel = f"lstm_{self.schedule}_{direction}"
        if self.schedule == "resident":
            tiles, *_ = next(resident_layouts.layouts(kernel, self.batch, self.hidden, 1))
            return Choice(self.schedule, "by hand", kernel, tiles, 1, self.batch, 1)
        return Choice(self.schedule, "by hand", kernel, self.tiles, self.blocks, self.groups, self.share)


RESIDENT = Layout("resident", (), hidden=5, batch=3, blocks=1, groups=3, share=1)
LARGER = Layout("resident", (), hidden=37, batch=3, blocks=1, groups=3, share=1, steps=9)  # more than AHEAD
PERSISTENT = Layout("persistent", (2, 1, 1), hidden=12, batch=9, blocks=2, groups=1, share=9)  # two passes
ONE_BLOCK = Layout("persistent", (2, 1, 1), hidden=4, batch=9, blocks=1, groups=1, share=9, steps=2)
TWO_BLOCKS = PERSISTENT._replace(batch=2, share=2, steps=2)
CLUSTER = Layout(
    "cluster", (2, 1, 2), hidden=37, batch=3, blocks=2, groups=2, share=2
)  # five units in the second block
GROUPS = Layout("persistent", (4, 1, 2), hidden=20, batch=20, blocks=2, groups=2, share=17)


def given_for(layout: Layout, lengths="some", **sizes) -> Problem:
    steps, batch = layout.steps, layout.batch
    if lengths == "some":
        lengths = np.arange(batch)[::-1] % (steps + 1)  # ..., all steps, ..., 1, 0
    return small_problem(2, hidden=layout.hidden, steps=steps, batch=batch, lengths=lengths, **sizes)


def train(layout: Layout, direction: str, given: Problem, mode: str, **settings) -> dict:
    """Forward and backward, of which the pass in ``direction`` runs in one launch and in ``mode``."""
    with cupy_on_cpu("fibers") as cupy, laid_out_by_hand(**{direction: layout.choice(direction)}):
        backend = Backend("cupy-on-cpu", cupy)
        x, params, state, dy, dstate = (
            backend.array(a) for a in (given.x, given.params, given.state, given.dy, given.dstate)
        )
        modes = {direction: mode}
        with cupy_on_cpu(modes.get(FORWARD, "fibers"), **(settings if direction == FORWARD else {})):
            y, final, cache = gl.lstm_forward(x, params, state, lengths=given.lengths)
        with cupy_on_cpu(modes.get(BACKWARD, "fibers"), **(settings if direction == BACKWARD else {})) as used:
            dx, grads, dinitial = gl.lstm_backward(cache, dy, dstate)
            assert (f"lstm_{layout.schedule}_backward" in used.on_cpu.launches) == (direction == BACKWARD)
        found = {"y": y, "h": final.h, "c": final.c, "dx": dx, "dh": dinitial.h, "dc": dinitial.c}
        return backend.numpy(found | {"d" + name: gradient for name, gradient in grads.items()})


def noticed(layout: Layout, direction: str, mode: str, message: str, **settings) -> None:
    given = given_for(layout, lengths=None, bias=False)
    with pytest.raises(SanitizerError, match=message):
        for _ in range(3):  # on a busy machine threads may happen not to meet
            train(layout, direction, given, mode, **settings)


class TestClean:
    @pytest.mark.parametrize("direction", DIRECTIONS)
    @pytest.mark.parametrize("name", ["RESIDENT", "LARGER", "PERSISTENT", "GROUPS"])
    def test_addresses(self, name, direction):
        layout = {"RESIDENT": RESIDENT, "LARGER": LARGER, "PERSISTENT": PERSISTENT, "GROUPS": GROUPS}[name]
        given = given_for(layout, directions=2)
        check(train(layout, direction, given, "asan", thread_order="random", seed=1), given)

    @pytest.mark.parametrize("layout", [RESIDENT, PERSISTENT, CLUSTER], ids=SCHEDULES)
    def test_addresses_without_what_may_be_missing(self, layout):
        given = given_for(layout, lengths=None, bias=False).but(dy=None)
        for direction in DIRECTIONS:
            check(train(layout, direction, given, "asan"), given)

    @pytest.mark.parametrize("layout", [RESIDENT, PERSISTENT, CLUSTER], ids=SCHEDULES)
    def test_addresses_in_inference(self, layout):
        given = given_for(layout, directions=2)
        with cupy_on_cpu("asan") as cupy, laid_out_by_hand(forward=layout.choice(FORWARD)):
            found = infer(Backend("cupy-on-cpu", cupy), given)
            assert set(cupy.on_cpu.launches) == {f"lstm_{layout.schedule}_forward"}
        check(found, given, infer)

    @pytest.mark.parametrize(
        ("layout", "direction"),
        [
            *((RESIDENT, direction) for direction in DIRECTIONS),
            (ONE_BLOCK, FORWARD),
            (TWO_BLOCKS, FORWARD),
            (ONE_BLOCK, BACKWARD),
            (TWO_BLOCKS._replace(steps=3), BACKWARD),  # the first slot is used again
        ],
        ids=str,
    )
    def test_races(self, layout, direction):
        given = given_for(layout, bias=False)
        check(train(layout, direction, given, "tsan", thread_order="random", seed=2), given)


SYNC = "__syncthreads();"


class TestRaces:
    @pytest.mark.parametrize(("direction", "which"), [(FORWARD, 0), (FORWARD, 3), (FORWARD, 4), (BACKWARD, 0)])
    def test_a_barrier_of_resident_taken_out(self, monkeypatch, direction, which):
        """But those around the masks of recurrent dropout: the test after the next."""
        file = f"lstm_resident_{direction}.cu"
        without(monkeypatch, file, SYNC, 5 if direction == FORWARD else 2, which=which)
        noticed(RESIDENT, direction, "tsan", rf"data race[\s\S]*{file}")

    def test_the_barrier_within_the_steps_of_resident_backward_taken_out(self, monkeypatch):
        without(monkeypatch, "lstm_resident_backward.cu", SYNC, 2, which=1)
        noticed(RESIDENT, BACKWARD, "tsan", r"data race[\s\S]*lstm_resident_backward.cu")

    def test_a_barrier_around_the_masks_of_resident_forward_taken_out(self, monkeypatch):
        given, made = given_for(RESIDENT, lengths=None), options.checked(recurrent_dropout=0.3)

        def run():
            with cupy_on_cpu("tsan") as cupy, laid_out_by_hand(forward=RESIDENT.choice(FORWARD)):
                x, params = (Backend("cupy-on-cpu", cupy).array(a) for a in (given.x, given.params))
                gl.lstm_forward(x, params, options=made, rng=1)
                assert "lstm_resident_forward" in cupy.on_cpu.launches

        run()
        for which in (1, 2):
            with monkeypatch.context() as patched, pytest.raises(SanitizerError, match="data race"):
                without(patched, "lstm_resident_forward.cu", SYNC, 5, which=which)
                for _ in range(3):
                    run()

    @pytest.mark.parametrize(
        ("direction", "line"),
        [(FORWARD, "handed[(i + 1) % 2 * 4 * PITCH]"), (BACKWARD, "da[i % 2][thread]")],
    )
    def test_one_buffer_instead_of_two_in_resident(self, monkeypatch, direction, line):
        file = f"lstm_resident_{direction}.cu"
        same = "handed[i % 2 * 4 * PITCH]" if direction == FORWARD else "da[0][thread]"
        without(monkeypatch, file, line, 1, same)
        if direction == BACKWARD:
            without(monkeypatch, file, "(w, da[i % 2], part);", 1, "(w, da[0], part);")
        noticed(RESIDENT, direction, "tsan", rf"data race[\s\S]*{file}")

    @pytest.mark.parametrize("which", [0, 1])
    def test_a_barrier_of_persistent_forward_taken_out(self, monkeypatch, which):
        without(monkeypatch, "lstm_persistent_forward.cu", SYNC, 2, which=which)
        noticed(ONE_BLOCK, FORWARD, "tsan", r"data race[\s\S]*lstm_persistent_forward.cu")

    @pytest.mark.parametrize("which", [1, 3, 4, 5])
    def test_a_barrier_of_persistent_backward_taken_out(self, monkeypatch, which):
        """But the first one, which the barrier before the products would do for too, and that of LAYERS."""
        without(monkeypatch, "lstm_persistent_backward.cu", SYNC, 6, ";", which=which)
        noticed(ONE_BLOCK, BACKWARD, "tsan", r"data race[\s\S]*lstm_persistent_backward.cu")

    def test_the_barrier_of_a_warp_that_orders_the_cells_taken_out(self, monkeypatch):
        without(monkeypatch, "lstm_persistent_forward.cu", "__syncwarp();", 3, which=2)
        one_pass = ONE_BLOCK._replace(batch=5, share=5)  # a second one would bring a barrier of the block in between
        noticed(one_pass, FORWARD, "tsan", r"data race[\s\S]*lstm_persistent_forward.cu")

    def test_one_buffer_instead_of_two_in_persistent(self, monkeypatch):
        without(monkeypatch, "lstm_persistent_forward.cu", "buffer ^= 1;", 1)
        noticed(ONE_BLOCK, FORWARD, "tsan", r"data race[\s\S]*lstm_persistent_forward.cu")

    def test_a_plain_load_of_what_another_block_hands_over(self, monkeypatch):
        plain = "for (int k = 0; k < 4; ++k) words[k] = source[k]"
        file = "lstm_persistent_forward.cu"
        without(monkeypatch, file, "host_cuda::load_relaxed_v4(source, words)", 1, plain)
        noticed(TWO_BLOCKS, FORWARD, "tsan", r"data race[\s\S]*handover\.cuh")

    def test_a_plain_store_of_what_is_handed_over(self, monkeypatch):
        file = "lstm_persistent_backward.cu"
        without(monkeypatch, file, "host_cuda::store_relaxed(target, word);", 1, "*target = word;")
        noticed(TWO_BLOCKS, BACKWARD, "tsan", r"data race[\s\S]*handover\.cuh")


class TestAddresses:
    """A guard that lets one too many through."""

    @pytest.mark.parametrize(
        ("direction", "line", "wrong"),
        [
            (FORWARD, "const bool exists = unit < hidden;", "const bool exists = unit <= hidden;"),
            (FORWARD, "left > i + AHEAD", "left >= i + AHEAD"),
            (BACKWARD, "const bool exists = unit < hidden;", "const bool exists = unit <= hidden;"),
            (BACKWARD, "first + gate < running", "first + gate <= running"),
        ],
    )
    def test_in_resident(self, monkeypatch, direction, line, wrong):
        without(monkeypatch, f"lstm_resident_{direction}.cu", line, 1, wrong)
        noticed(RESIDENT._replace(steps=9), direction, "asan", BEYOND)

    @pytest.mark.parametrize(
        ("direction", "line", "wrong"),
        [
            (FORWARD, "unit < hidden && column < hidden;", "unit < hidden && column <= hidden;"),
            (FORWARD, "unit < hidden && sequence < end_sequence)", "unit < hidden && sequence <= end_sequence)"),
            (FORWARD, "sequence >= end_sequence) continue;", "sequence > end_sequence) continue;"),
            (BACKWARD, "unit < hidden && output < hidden;", "unit < hidden && output <= hidden;"),
            (BACKWARD, "unit < hidden && sequence < end_sequence;", "unit < hidden && sequence <= end_sequence;"),
            (BACKWARD, "to < end_sequence)", "to <= end_sequence)"),
        ],
    )
    def test_in_persistent(self, monkeypatch, direction, line, wrong):
        count = 2 if "column" in line else 1  # row_fragments.cuh has it for one matrix and for two
        without(monkeypatch, f"lstm_persistent_{direction}.cu", line, count, wrong)
        noticed(PERSISTENT, direction, "asan", BEYOND)


class TestHandingOver:
    """What is handed over is wrong, or never comes, in some order of the blocks."""

    LONGER = PERSISTENT._replace(steps=6)  # each slot is used three times

    def goes_wrong(self, direction: str, **settings) -> bool:
        given = given_for(self.LONGER, lengths=None)
        run = partial(train, self.LONGER, direction, given, "fibers", spin_limit=100, **settings)
        return goes_wrong(lambda: check(run(), given))

    def is_noticed(self, direction: str) -> bool:
        return any(self.goes_wrong(direction, late_block=block) for block in (0, 1))

    def test_nothing_goes_wrong_as_it_is(self):
        assert not any(self.is_noticed(direction) for direction in DIRECTIONS)

    def test_not_waiting_for_hidden_states(self, monkeypatch):
        without(monkeypatch, "lstm_persistent_forward.cu", "wait && any_missing(words)", 1, "false")
        assert self.is_noticed(FORWARD)

    def test_waiting_for_one_word_of_four(self, monkeypatch):
        whole = " || words[1] == 0xFFFFFFFFu || words[2] == 0xFFFFFFFFu || words[3] == 0xFFFFFFFFu"
        without(monkeypatch, "lstm_persistent_forward.cu", whole, 1)
        late = [
            self.goes_wrong(FORWARD, thread_order=o, late_block=b) for o in ("descending", "random") for b in (0, 1)
        ]
        assert any(late)

    def test_publishing_in_the_slot_of_the_step_before(self, monkeypatch):
        right, wrong = "h_after = hiddens + (step + 1 - reverse)", "h_after = hiddens + (step + reverse)"
        without(monkeypatch, "lstm_persistent_forward.cu", right, 1, wrong)
        assert self.goes_wrong(FORWARD)

    def test_a_word_that_means_not_there_is_published(self, monkeypatch):
        given = given_for(PERSISTENT)
        h, c = (part.copy() for part in given.state)
        h[0, -1, 5] = NOT_THERE  # of a sequence of length 0
        assert given.lengths[-1] == 0
        given = given.but(state=(h, c))

        def found():
            with cupy_on_cpu(spin_limit=100) as cupy, laid_out_by_hand(forward=PERSISTENT.choice(FORWARD)):
                return infer(Backend("cupy-on-cpu", cupy), given)

        np.testing.assert_array_equal(np.isnan(found()["h"]), np.isnan(infer(NUMPY, given)["h"]))
        right, wrong = "word == 0xFFFFFFFFu ? 0x7FFFFFFFu : word", "word"
        without(monkeypatch, "lstm_persistent_forward.cu", right, 1, wrong)
        with pytest.raises(LaunchError, match="deadlock"):
            found()

    @pytest.mark.parametrize("arrival", ["(((count - 1) / 2) & 1) ^ 1", "1"])
    def test_a_bit_that_does_not_alternate(self, monkeypatch, arrival):
        """Of what is sent, or of what is sent and waited for."""
        file = "lstm_persistent_backward.cu"
        without(monkeypatch, file, "departure_bit = ((count / 2) & 1) ^ 1", 1, "departure_bit = 1")
        without(monkeypatch, file, "arrival_bit = (((count - 1) / 2) & 1) ^ 1", 1, f"arrival_bit = {arrival}")
        assert self.is_noticed(BACKWARD)

    def test_one_slot_instead_of_two(self, monkeypatch):
        file = "lstm_persistent_backward.cu"
        without(monkeypatch, file, "exchange + (count + 1) % 2 * slot_size", 1, "exchange")
        without(monkeypatch, file, "exchange + count % 2 * slot_size", 1, "exchange")
        assert self.is_noticed(BACKWARD)

    def test_the_contribution_goes_to_the_wrong_block(self, monkeypatch):
        right, wrong = "output / UNITS * region + place", "(blocks - 1 - output / UNITS) * region + place"
        without(monkeypatch, "lstm_persistent_backward.cu", right, 1, wrong)
        assert self.goes_wrong(BACKWARD)

    def test_lengths_forgotten(self, monkeypatch):
        for schedule, line in (
            ("resident", "const bool runs = step < length;"),
            ("persistent", "const bool runs ="),
        ):
            layout = {"resident": RESIDENT, "persistent": PERSISTENT}[schedule]
            replacement = "const bool runs = true;" if schedule == "resident" else "const bool runs = true ||"
            with monkeypatch.context() as patch:
                without(patch, f"lstm_{schedule}_forward.cu", line, 1, replacement)
                with pytest.raises(AssertionError, match="is off by"):
                    given = given_for(layout)
                    check(train(layout, FORWARD, given, "fibers"), given)
