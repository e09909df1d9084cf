"""benchmarks/floors.py, as far as it needs no GPU: kernels compile, expected values are right, failures are said."""

import json
import re

import numpy as np
import pytest

from benchmarks import floors, gpu, handover, throughput
from tests.test_nvrtc_gate import check, compile_for, nvrtc_or_skip

ARCHITECTURES = (90, 100)  # clusters exist from 9.0 on
CASES = [(file, definitions) for file, (_, all_) in gpu.PROGRAMS.items() for definitions in all_]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("file", "definitions"), CASES, ids=lambda value: str(value))
def test_every_kernel_compiles_without_spills(file, definitions, architecture):
    supported = nvrtc_or_skip().getSupportedArchs()
    if architecture not in supported:
        pytest.skip(f"sm_{architecture} was left out: NVRTC supports {supported}")
    log = compile_for(architecture, gpu.source(file), ("-std=c++14", *gpu.options(definitions)), file)
    check(set(gpu.PROGRAMS[file][0]), log, f"{file} {definitions}, sm_{architecture}")


def test_every_kernel_of_the_folder_is_listed():
    assert sorted(path.name for path in gpu.KERNELS.glob("*.cu")) == sorted(gpu.PROGRAMS)
    for file, (entries, _) in gpu.PROGRAMS.items():
        text = gpu.source(file)
        assert not re.search(r'#include "', text), file
        named = re.findall(r'extern "C" __global__ void (?:__\w+__\([^)]*\) )*(\w+)\(', text)
        assert set(named) - {"name"} <= set(entries) and all(entry in text for entry in entries), file


def word_of(step: int, index: int) -> int:
    return ((step * 0x9E3779B1 + index * 0x85EBCA6B) % 2**32) >> 1


@pytest.mark.parametrize(("words", "vectors"), [(256, 1), (4096, 4)])
def test_the_expected_checksums_are_those_of_the_words_a_thread_reads(words, vectors):
    found = handover.expected_checksums(words, vectors)
    assert found.shape == (handover.THREADS,)
    for thread in (0, 1, 63, 64, handover.THREADS - 1):
        expected = 0
        for step in range(handover.STEPS):
            for vector in range(thread, words // 4, handover.THREADS):
                for word in range(4 * vector, 4 * vector + 4):
                    expected ^= word_of(step, word)
        assert found[thread] == expected
    assert found.any()


def test_the_kernels_and_python_agree_on_their_constants():
    for file, names in (("flag_all_to_all.cu", handover.THREADS), ("cluster_all_to_all.cu", handover.THREADS)):
        assert f"const int THREADS = {names};" in gpu.source(file)
    assert f"const int THREADS = {throughput.L2_THREADS};" in gpu.source("l2_read.cu")
    assert f"const int LINE = {handover.LINE};" in gpu.source("flag_ping_pong.cu")
    rates = gpu.source("mma_rates.cu")
    assert f"const int TILES = {throughput.TILES};" in rates and f"const int COLUMNS = {throughput.COLUMNS};" in rates
    assert set(throughput.RATES) == set(gpu.PROGRAMS["mma_rates.cu"][0])
    assert "0x9E3779B1u" in gpu.source("words.cuh") and "0x85EBCA6Bu" in gpu.source("words.cuh")


@pytest.mark.parametrize("name", ["float32", "TF32", "float16", "bfloat16"])
def test_what_is_stored_for_a_product_means_nearly_the_same(name):
    x = np.linspace(-1, 1, 37, dtype=np.float32)
    assert np.allclose(throughput.values(name, throughput.stored(name, x)), x, atol=2**-7)


def test_a_line_that_fails_is_reported_and_the_next_one_is_measured(capsys):
    report = gpu.Report("some group")
    report.measure("first", "us", lambda: 1 / 0)
    report.measure("second", "us", lambda: [3.0, 1.0, 2.0], blocks=4)
    assert report.failed == [{"group": "some group", "name": "first", "why": "ZeroDivisionError: division by zero"}]
    (line,) = report.lines
    assert (line["median"], line["low"], line["high"], line["count"], line["blocks"]) == (2, 1, 3, 3, 4)
    out = capsys.readouterr().out
    assert re.search(r"first +FAILED: ZeroDivisionError", out) and re.search(r"second +2 us +1 to 3", out)


def test_groups_that_fail_or_hang_leave_the_others_and_the_file_alone(tmp_path, monkeypatch, capsys):
    def process(name, file):
        if name == "flags":
            return "not done after 60 s"
        report = gpu.Report(name)
        report.machine = {"gpu": "a GPU"}
        report.measure(f"line of {name}", "us", lambda: [1.0])
        file.write_text(json.dumps(report.as_dict()))
        return "the process ended with -11" if name == "l2" else ""

    monkeypatch.setattr(floors, "run_process", process)
    out = tmp_path / "results.json"
    assert floors.main(["--out", str(out), "--only", "flags", "l2", "mma"]) == 1
    results = json.loads(out.read_text())
    assert [line["name"] for line in results["lines"]] == ["line of l2", "line of mma"]
    assert [failure["group"] for failure in results["failed"]] == ["flags", "l2"]
    assert results["machine"] == {"gpu": "a GPU"} and results["seconds"] >= 0
    assert "2 lines" in capsys.readouterr().out


def test_a_group_without_a_gpu_says_why(tmp_path, monkeypatch):
    def no_gpu():
        raise RuntimeError("no CUDA driver")

    monkeypatch.setattr(floors, "Gpu", no_gpu)
    out = tmp_path / "mma.json"
    assert floors.main(["--group", "mma", "--out", str(out)]) == 0
    assert json.loads(out.read_text())["failed"] == [
        {"group": "mma", "name": "mma", "why": "RuntimeError: no CUDA driver"}
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--out", "nowhere/at/all.json"], "there is no folder nowhere"), (["--only", "warp"], "invalid choice: 'warp'")],
)
def test_wrong_arguments_are_refused_before_anything_is_measured(arguments, message, capsys):
    with pytest.raises(SystemExit):
        floors.main(arguments)
    assert message in capsys.readouterr().err
