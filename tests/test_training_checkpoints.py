"""Checkpoints: one file that is always whole, and a training that goes on from it to the same bits."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
import torch

import gpulstm as gl
from gpulstm import arrays
from gpulstm.training import SGD, Adam, Checkpoint, load_checkpoint, save_checkpoint, saved, schedules
from tests import backends
from tests.training_problems import (
    Pointwise,
    Recurrent,
    assert_same_bits,
    flat,
    sequences,
    squared_error,
    without_times,
)

BACKENDS = backends.ENGINES
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.safetensors"


# The file


def test_everything_comes_back(path, backend):
    rng = np.random.default_rng(0)
    params = {"lstm": {"weight": rng.normal(size=(4, 3)), "bias": np.zeros(0, "float32")}, "scale": np.array(np.pi)}
    optimiser = {"steps": 3, "moments": {"a": (rng.normal(size=2), [np.arange(3), None])}, "name": "Adam"}
    position = {
        "step": np.int64(7),
        "seed": 2**63 + 1,
        "rate": 0.1,
        "pi": np.float64(np.pi),
        "done": False,
        "nan": np.nan,
    }
    records = [{"step": 1, "loss": 1 / 3, "validation_loss": None}, {"step": 2, "loss": np.inf, "validation_loss": 2.0}]
    save_checkpoint(path, Checkpoint(backend.array(params), optimiser, None, position, records))
    found = load_checkpoint(path)
    assert_same_bits(found.params, params)
    assert found.params["scale"].shape == () and found.params["lstm"]["bias"].shape == (0,)
    assert repr(found.optimiser) == repr(optimiser)
    assert found.best is None and repr(found.records) == repr(records)
    assert repr(found.position) == repr(position | {"step": 7, "pi": float(np.pi)})


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64", "bool"])
def test_arrays_of_any_strides_keep_their_values(path, dtype):
    """safetensors 0.8.0 writes the memory of an array as if its strides were C's."""
    a = np.arange(24).reshape(4, 6).astype(dtype)
    given = {"transposed": a.T, "reversed": a[::-1], "every other": a[:, ::2], "fortran": np.asfortranarray(a)}
    save_checkpoint(path, Checkpoint(given))
    for name, value in load_checkpoint(path).params.items():
        np.testing.assert_array_equal(value, given[name])
        assert value.dtype == dtype and value.flags.writeable


def test_the_arrays_are_plain_safetensors_under_their_names(path):
    save_checkpoint(path, Checkpoint({"head": {"weight": np.ones(2)}, "head/weight": np.zeros(3)}, [np.arange(4)]))
    tensors = safetensors.numpy.load_file(path)
    assert sorted(tensors) == ["optimiser/0", "params/head/weight", "params/head/weight'"]
    assert_same_bits(load_checkpoint(path).params, {"head": {"weight": np.ones(2)}, "head/weight": np.zeros(3)})


@pytest.mark.parametrize("make", [torch.asarray, jax.numpy.asarray], ids=["torch", "jax"])
def test_other_libraries_arrays_are_saved_and_given_back(path, make):
    params = {"weight": make(np.arange(6, dtype="float32").reshape(2, 3)).T}
    save_checkpoint(path, Checkpoint(params))
    blank = {"weight": make(np.zeros((3, 2), "float32"))}
    load_checkpoint(path).load_into(blank)
    assert type(blank["weight"]) is type(params["weight"])
    np.testing.assert_array_equal(arrays.to_numpy(blank["weight"]), np.arange(6).reshape(2, 3).T)


def test_loading_into_a_model_writes_its_own_arrays(path, backend):
    model, twin = Recurrent(backend.xp), Recurrent(backend.xp, seed=5)
    save_checkpoint(path, Checkpoint(model.params, best=twin.params))
    held = twin.lstm.params["weight_ih_l0"]
    load_checkpoint(path).load_into(twin.params)
    assert_same_bits(twin.params, model.params)
    assert twin.lstm.params["weight_ih_l0"] is held
    load_checkpoint(path).load_into(model.params, best=True)
    assert_same_bits(model.params, Recurrent(seed=5).params)


def test_loading_lists_what_does_not_fit_and_changes_nothing(path):
    save_checkpoint(path, Checkpoint({"a": np.ones(2), "b": np.ones((2, 3)), "c": np.ones(2), "gone": np.ones(1)}))
    params = {"a": np.zeros(2), "b": np.zeros((3, 2)), "c": np.zeros(2, "float32"), "new": np.zeros(1)}
    with pytest.raises(ValueError) as error:
        load_checkpoint(path).load_into(params)
    for part in (
        r"['new'] is missing in the checkpoint",
        r"['gone'] is unexpected in the checkpoint",
        r"['b'] has shape (3, 2) here and (2, 3) in the checkpoint",
        r"['c'] has dtype float32 here and float64 in the checkpoint",
    ):
        assert part in str(error.value)
    assert not any(value.any() for value in params.values())
    with pytest.raises(ValueError, match="best must be False for this checkpoint"):
        load_checkpoint(path).load_into(params, best=True)


def test_what_is_no_checkpoint_is_refused(path, tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no checkpoint at .*run.safetensors"):
        load_checkpoint(path)
    save_checkpoint(path, Checkpoint({"a": np.ones(100)}))
    whole = path.read_bytes()
    for part in (b"", whole[:5], whole[:-1], b"hello" * 100):
        path.write_bytes(part)
        with pytest.raises(ValueError, match="must be a checkpoint, and is no whole safetensors file"):
            load_checkpoint(path)
    safetensors.numpy.save_file({"a": np.ones(2)}, path)
    with pytest.raises(ValueError, match="is another safetensors file"):
        load_checkpoint(path)
    path.write_bytes(whole.replace(b'"version":"1"', b'"version":"9"'))
    with pytest.raises(ValueError, match="must have version 1 or below, got 9; a newer gpulstm wrote it"):
        load_checkpoint(path)
    with pytest.raises(FileNotFoundError, match="the folder .*nowhere of the checkpoint a.b does not exist"):
        save_checkpoint(tmp_path / "nowhere" / "a.b", Checkpoint({}))
    with pytest.raises(IsADirectoryError, match="path must name a file, such as"):
        save_checkpoint(tmp_path, Checkpoint({}))
    with pytest.raises(TypeError, match="path must be a string or a path, got int"):
        save_checkpoint(3, Checkpoint({}))
    with pytest.raises(TypeError, match="position/f must be an array, a number, a string, None"):
        save_checkpoint(path, Checkpoint({}, position={"f": print}))


def test_a_failed_write_leaves_the_old_file_and_nothing_else(path, monkeypatch):
    save_checkpoint(path, Checkpoint({"a": np.ones(2)}))
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(path, Checkpoint({"a": np.zeros(2)}))
    assert path.read_bytes() == before and os.listdir(path.parent) == [path.name]


def test_the_disk_has_the_content_before_the_name_and_then_the_name(path, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace

    def forced(descriptor):
        events.append(Path(f"/proc/self/fd/{descriptor}").resolve())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", forced)
    monkeypatch.setattr(os, "replace", lambda a, b: (events.append("replace"), replace(a, b)))
    save_checkpoint(path, Checkpoint({"a": np.ones(2)}))
    if not Path("/proc/self/fd").exists() or os.name == "nt":
        pytest.skip("needs /proc to tell which file was forced to the disk")
    assert events[0].name.startswith(".run.safetensors.part-") and events[1:] == ["replace", path.parent]


def test_leftovers_of_killed_writers_go_and_those_of_other_files_stay(path):
    names = [".run.safetensors.part-123-ab", ".other.safetensors.part-9-cd", "run.safetensors.part-1-ef"]
    for name in names:
        (path.parent / name).write_bytes(b"half")
    save_checkpoint(path, Checkpoint({"a": np.ones(2)}))
    assert sorted(os.listdir(path.parent)) == sorted([path.name, *names[1:]])


def test_two_writers_of_one_file_are_told(path, monkeypatch):
    """The second takes the first one's half-written file for a leftover: the first says so, and the file is whole."""
    fsync, calls = os.fsync, []

    def interleaved(descriptor):
        calls.append(descriptor)
        if len(calls) == 1:
            save_checkpoint(path, Checkpoint({"a": np.zeros(2)}))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", interleaved)
    with pytest.raises(RuntimeError, match="path must be written by one program at a time"):
        save_checkpoint(path, Checkpoint({"a": np.ones(2)}))
    assert_same_bits(load_checkpoint(path).params, {"a": np.zeros(2)})


# Going on

OPTIONS = {"batch_size": 7, "clip_norm": 1.0, "schedule": schedules.warmup_cosine(0.02, 3, 20), "rng": 11}
OPTIONS |= {"steps": 20, "patience": 3, "evaluate_every": 4, "progress": False}


def fitted(model, optimiser=None, **options):
    options = OPTIONS | {"validation": sequences(9, seed=1)} | options
    return model, gl.fit(model, squared_error, sequences(30), optimiser=optimiser or Adam(), **options)


class StoppedBySignal(Adam):
    """Presses Ctrl-C in the middle of a step."""

    def __init__(self, at):
        super().__init__()
        self.at = at

    def step(self, params, grads):
        if self.steps + 1 == self.at:
            signal.raise_signal(signal.SIGINT)
        super().step(params, grads)


StoppedBySignal.__name__ = "Adam"  # a checkpoint says whose state it has


@pytest.mark.parametrize("stop", [1, 4, 5, 7, 10, 19])  # 4 is an evaluation, 5 and 10 are the ends of epochs
def test_a_resumed_training_ends_with_the_bits_of_one_that_never_stopped(backend, stop, path):
    whole_adam, adam = Adam(), Adam()
    whole, expected = fitted(Recurrent(backend.xp), whole_adam)
    _, begun = fitted(Recurrent(backend.xp), StoppedBySignal(stop), checkpoint=path)
    assert begun.interrupted and load_checkpoint(path).position["step"] == stop

    resumed, history = fitted(Recurrent(backend.xp, seed=8), adam, resume=path, checkpoint=path)
    assert_same_bits(resumed.params, whole.params)
    assert_same_bits(adam.state_dict()["arrays"], whole_adam.state_dict()["arrays"])
    assert without_times(history) == without_times(expected) and history.best_step == expected.best_step
    assert not history.interrupted and load_checkpoint(path).position["step"] == 20


@pytest.mark.parametrize("stop", [6, 10, 12])
def test_early_stopping_goes_on_where_it_was(path, stop):
    """The best is at step 6, and patience ends at step 12, before and after."""
    options = {"schedule": lambda step: 0.05 if step < 6 else 5.0, "steps": 100, "evaluate_every": 2}
    whole, expected = fitted(Pointwise(), **options)
    assert expected.stopped_early and expected["step"][-1] == 12 and expected.best_step == 6
    fitted(Pointwise(), **options | {"steps": stop, "patience": None}, checkpoint=path)
    resumed, history = fitted(Pointwise(seed=3), **options, resume=path)
    assert_same_bits(resumed.params, whole.params)
    assert without_times(history) == without_times(expected) and history.stopped_early


def test_momentum_and_a_transposed_weight_go_on_too(path):
    class Transposed(gl.nn.Linear):
        def __init__(self, seed=0):
            super().__init__(2, 3, rng=seed)
            self.params["weight"] = np.asfortranarray(self.params["weight"])

    def loss(prediction, target, lengths=None):
        return squared_error(prediction, np.repeat(target, 3, axis=2), lengths=lengths)

    def run(model, **options):
        options = {"validation": sequences(5), "progress": False, "rng": 2, "evaluate_every": 3} | options
        gl.fit(model, loss, sequences(), optimiser=SGD(0.01, momentum=0.9), **options)
        return model

    whole = run(Transposed(), steps=9)
    run(Transposed(), steps=5, checkpoint=path)
    assert_same_bits(run(Transposed(seed=4), steps=9, resume=path).params, whole.params)


def test_the_checkpoint_holds_where_training_is_and_the_best(path):
    """The model is left with the best parameters, and a checkpoint that had these would go on from another place."""
    model, history = fitted(
        Pointwise(), schedule=lambda step: 0.05 if step < 6 else 5.0, checkpoint=path, patience=None
    )
    found = load_checkpoint(path)
    assert_same_bits(found.best, model.params)
    assert flat(found.params)["weight"].tobytes() != model.params["weight"].tobytes()
    assert found.records == history.records and found.position["seed"] == history.seed == 11


@pytest.mark.parametrize("every, expected", [(None, [4, 8, 9]), (3, [3, 6, 9]), (1, list(range(1, 10))), (20, [9])])
def test_checkpoints_are_written_when_they_were_asked_for(path, monkeypatch, every, expected):
    steps, save = [], saved.save_checkpoint
    monkeypatch.setattr(
        saved, "save_checkpoint", lambda path, content: (steps.append(content.position["step"]), save(path, content))
    )
    fitted(Pointwise(), steps=9, checkpoint=path, checkpoint_every=every)
    assert steps == expected


def test_a_seed_need_not_be_given_again(path):
    whole, expected = fitted(Recurrent(), rng=None, steps=6, checkpoint=path)
    fitted(Recurrent(), rng=expected.seed, steps=3, checkpoint=path)
    resumed, history = fitted(Recurrent(), rng=None, steps=6, resume=path)
    assert_same_bits(resumed.params, whole.params)
    assert history.seed == expected.seed


def test_resuming_what_has_ended_changes_nothing(path):
    whole, expected = fitted(Pointwise(), checkpoint=path)
    again, history = fitted(Pointwise(seed=3), resume=path)
    assert_same_bits(again.params, whole.params)
    assert history.records == expected.records


def test_resuming_lists_what_differs_and_changes_nothing(path):
    fitted(Pointwise(), steps=3, checkpoint=path, schedule=None, optimiser=Adam(0.25))
    model = Recurrent()
    before = flat(model.params)
    with pytest.raises(ValueError) as error:
        gl.fit(
            model,
            squared_error,
            sequences(31),
            optimiser=SGD(0.5),
            steps=9,
            batch_size=3,
            rng=12,
            resume=path,
            progress=False,
        )
    for part in (
        "resume must be a checkpoint of the same training; in",
        "['lstm']['weight_ih_l0'] is missing in the checkpoint",
        "['weight'] is unexpected in the checkpoint",
        "seed is 12 here and 11 in the checkpoint",
        "optimiser is 'SGD' here and 'Adam' in the checkpoint",
        "learning_rate is 0.5 here and 0.25 in the checkpoint",
        "sequences is 31 here and 30 in the checkpoint",
        "batch_size is 3 here and 7 in the checkpoint",
        "steps_per_epoch is 11 here and 5 in the checkpoint",
        "validation is False here and True in the checkpoint",
    ):
        assert part in str(error.value)
    assert_same_bits(model.params, before)


def test_a_file_to_resume_must_be_there(path):
    with pytest.raises(
        FileNotFoundError, match=r"resume must be a checkpoint, and there is no file .*\n?.*checkpoint='"
    ):
        fitted(Pointwise(), resume=path)


def test_a_folder_to_save_to_must_be_there_before_training_begins(tmp_path):
    model = Pointwise()
    before = flat(model.params)
    with pytest.raises(FileNotFoundError, match="the folder .*nowhere of the checkpoint"):
        fitted(model, checkpoint=tmp_path / "nowhere" / "run.safetensors")
    assert_same_bits(model.params, before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_100_kills_leave_100_checkpoints_that_lead_to_the_same_bits(tmp_path):
    command = [sys.executable, str(ROOT / "tests" / "killed_trainings.py"), str(tmp_path), "100", "7"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert counts["killed"] == 100 and counts["unreadable"] == counts["other bits"] == 0, counts
    assert counts["while writing"] >= 25 and counts["with a checkpoint"] >= 75 and counts["steps"] >= 5, counts
    assert counts["leftovers"] <= 1, counts
