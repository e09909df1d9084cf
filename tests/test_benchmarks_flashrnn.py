"""The comparison with FlashRNN, through a module that computes as version 1.0.8 documents it, in PyTorch on the CPU."""

import dataclasses
import sys
import types

import pytest
import torch

from benchmarks import compare
from benchmarks.against_torch import checking, cpu, flashrnn, grid, machine, racing, results, sides, table
from benchmarks.against_torch.one_process import OneProcess

CELL = grid.Cell("one-layer", "float32", 6, 3, 5)


@dataclasses.dataclass
class Config:
    """The fields of FlashRNN's that are used here; its own layouts are the defaults."""

    backend: str = "cuda_fused"
    function: str = "lstm"
    num_heads: int = -1
    head_dim: int = -1
    batch_size: int = 8
    input_shape: str = "BTGHD"
    output_shape: str = "SBTHD"
    dtype: str = "bfloat16"


def computed(Wx, R, b, states=None, function="lstm", config=None, backend="cuda_fused", dtype="bfloat16"):
    """Letter by letter: B batch, T time, G gates i f z o, H heads, D and P new and previous units, S states h c."""
    assert function == config.function == "lstm" and config.num_heads == Wx.shape[3] and config.head_dim == Wx.shape[4]
    x = Wx.permute([config.input_shape.index(letter) for letter in "TBGHD"])
    assert config.batch_size == x.shape[1] and getattr(torch, config.dtype) == x.dtype
    if states is None:
        h = c = x.new_zeros(x.shape[1], *x.shape[3:])
    else:
        h, c = states.permute([config.output_shape.index(letter) for letter in "TSBHD"])[0]
    found = []
    for step in x:
        i, f, z, o = (step + torch.einsum("bhp,ghdp->bghd", h, R) + b).unbind(1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(z)
        h = torch.sigmoid(o) * torch.tanh(c)
        found.append(torch.stack((h, c)))
    of_all = torch.stack(found).permute(["TSBHD".index(letter) for letter in config.output_shape])
    return of_all, of_all.narrow(config.output_shape.index("T"), len(found) - 1, 1)


@pytest.fixture
def module(monkeypatch):
    module = types.ModuleType("flashrnn")
    module.flashrnn, module.FlashRNNConfig = computed, Config
    monkeypatch.setitem(sys.modules, "flashrnn", module)
    monkeypatch.setattr(flashrnn, "STORAGE", ("float32", "float16", "bfloat16"))  # NumPy has no other
    return module


@pytest.fixture
def contest(module):
    return OneProcess(cpu.Cpu(), flashrnn.FlashRNN())


def test_it_gives_what_pytorch_gives(module):
    theirs = sides.TorchSide.of(CELL, "cpu")
    side = flashrnn.FlashRNN().side(CELL, theirs)
    errors = checking.relative_errors(side.results(), theirs.as_double().results())
    assert len(errors) == 10 and max(errors.values()) < 1e-6
    assert side.backend == "cuda_fused"


def test_it_is_checked_and_timed_beside_the_others(contest):
    record = racing.run(CELL, contest, seconds=0.001)
    assert record["status"] == "timed", record
    of = record["flashrnn"]
    assert of["status"] == "timed" and of["backend"] == "cuda_fused" and max(of["errors"].values()) < 1e-5
    for of_pass in results.PASSES:
        assert of[of_pass]["ms"] > 0 and of[of_pass]["rounds"] == record["ours"][of_pass]["rounds"]
    assert contest.about()["flashrnn"]["version"]


@pytest.mark.parametrize(("off", "status"), [(1.05, "timed"), (1.2, "wrong")])
def test_a_little_off_is_said_and_another_function_is_not_timed(contest, module, monkeypatch, off, status):
    monkeypatch.setattr(module, "flashrnn", lambda Wx, R, *others, **more: computed(Wx, R * off, *others, **more))
    record = racing.run(dataclasses.replace(CELL, hidden=12), contest, seconds=0.001)
    assert record["status"] == "timed" and record["flashrnn"]["status"] == status, record["flashrnn"]
    assert ("forward" in record["flashrnn"]) == (status == "timed")
    said = "; FlashRNN's relative error is up to 0.0" if status == "timed" else "; **FlashRNN is wrong**: "
    assert said in table._note(record)


def test_what_does_not_compile_takes_the_other_backend_or_no_part(contest, module, monkeypatch):
    def compile_only(*wanted):
        def call(*arguments, config, **more):
            if config.backend not in wanted:
                raise ValueError("No solution of constraints for CUDA module\nand much more")
            return computed(*arguments, config=config, **more)

        monkeypatch.setattr(module, "flashrnn", call)

    compile_only("cuda")
    assert racing.run(CELL, contest, seconds=0.001)["flashrnn"]["backend"] == "cuda"
    compile_only()
    record = racing.run(CELL, contest, seconds=0.001)
    assert record["status"] == "timed" and record["ours"]["forward"]["ms"] > 0
    reason = "ValueError: No solution of constraints for CUDA module"
    message = f"FlashRNN does not run: cuda_fused: {reason}; cuda: {reason}"
    assert record["flashrnn"] == {"status": "not compared", "message": message}


@pytest.mark.parametrize(
    ("change", "why"),
    [({"setting": "both-directions"}, "one layer in one direction"), ({"dtype": "tf32"}, "in float16 and bfloat16")],
)
def test_what_it_does_not_have_is_not_compared(module, monkeypatch, change, why):
    monkeypatch.setattr(flashrnn, "STORAGE", ("float16", "bfloat16"))
    with pytest.raises(flashrnn.TakesNoPart, match=why):
        flashrnn.FlashRNN().side(dataclasses.replace(CELL, **change), None)


def test_it_does_not_begin_to_compile_what_would_not_be_ready(module):
    library = flashrnn.FlashRNN(seconds_left=lambda: 130.0)
    theirs = sides.TorchSide.of(CELL, "cpu")
    assert library.side(CELL, theirs).backend == "cuda_fused"
    library.slowest = 170.0  # one that took longer than expected
    with pytest.raises(flashrnn.TakesNoPart, match="may take 170 s, which are not left"):
        library.side(CELL, theirs)
    library.seconds_left = lambda: 20.0
    library.slowest = flashrnn.EXPECTED
    with pytest.raises(flashrnn.TakesNoPart, match="may take 120 s"):
        library.side(CELL, theirs)


def test_without_it_the_reason_is_in_the_file_and_on_the_page(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "flashrnn", None)
    with pytest.raises(flashrnn.TakesNoPart, match="FlashRNN cannot be imported: ModuleNotFoundError") as refused:
        flashrnn.FlashRNN()
    monkeypatch.setattr("benchmarks.against_torch.gpu.Gpu", cpu.Cpu)
    contest = compare._contest(compare._parser().parse_args(["--device", "gpu", "--flashrnn"]))
    assert contest.about() == {"flashrnn": {"missing": str(refused.value)}}
    assert compare._contest(compare._parser().parse_args([])).about() == {
        "flashrnn": {"missing": "it was not asked for"}
    }


def test_the_whole_command_as_on_a_gpu(contest, monkeypatch, tmp_path, capsys):
    """With the CPU in the GPU's place: three libraries, the bound of an H200, and the figures that are judged."""
    monkeypatch.setattr(machine, "gpu_state", lambda: {"name": "NVIDIA H200"})
    monkeypatch.setattr(machine, "versions", lambda device: {"commit": "made up"})
    arguments = ["--device", "gpu", "--setting", "one-layer,lengths", "--dtype", "float32", "--hidden", "8"]
    arguments += ["--batch", "3", "--steps", "5", "--pass-seconds", "0.001", "--out", str(tmp_path)]
    assert compare._run(compare._parser().parse_args(arguments), arguments, contest) == 0
    document = results.read(tmp_path / "compare-gpu.json")
    one, lengths = document["cells"]
    assert one["flashrnn"]["status"] == "timed" and lengths["flashrnn"]["status"] == "not compared"
    for record in (one, lengths):
        assert 0 < record["bound"]["forward"]["ms"] < record["ours"]["forward"]["ms"] and record["seconds"] > 0
    assert document["bound"]["gpu"] == "NVIDIA H200" and "version" in document["flashrnn"]
    found = document["acceptance"]
    assert found["complete"] and found["FlashRNN's time over ours"]["forward"]["compared"] == 1
    page = (tmp_path / "compare-gpu.md").read_text(encoding="utf-8")
    titles = "forward: ours | PyTorch | speed-up | over bound | FlashRNN | speed-up | forward + backward: ours"
    assert titles in page and "- FlashRNN: " in page and "FlashRNN's times include the product of the input" in page
    over = one["ours"]["forward"]["ms"] / one["bound"]["forward"]["ms"]
    assert f"| {one['torch']['forward']['ms'] / one['ours']['forward']['ms']:.2f} | {over:.2f} |" in page
    assert (tmp_path / "compare-gpu-float32-bound.svg").exists()
    printed = capsys.readouterr().out
    assert "outside of cuDNN's float16 window, forward: " in printed and "FlashRNN's time over ours: forward" in printed
    with pytest.raises(SystemExit, match="--floors: no floors of NVIDIA H200"):
        more = [*arguments, "--floors", str(tmp_path / "nothing.json")]
        compare._run(compare._parser().parse_args(more), more, contest)
