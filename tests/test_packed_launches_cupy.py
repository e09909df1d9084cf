"""What `gpulstm.cuda.packed` lays out goes through the installed CuPy's own binding as it should, without a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cuda_on_cpu import compiler

DRIVER = r"""
// A driver with two functions, which say what they were asked to launch.
#include <cstdio>
#include <cstring>
static int launched(const char* how, void* kernel, const unsigned (&sizes)[7], void* stream, void** params) {
    std::printf("{\"how\": \"%s\", \"kernel\": %zu, ", how, size_t(kernel));
    std::printf("\"stream\": %zu, \"sizes\": [", size_t(stream));
    for (int i = 0; i < 7; i++) std::printf("%s%u", i ? ", " : "", sizes[i]);
    std::printf("], \"arguments\": [");
    for (int i = 0; i < 5; i++) {
        if (i < 3) {
            size_t address;
            std::memcpy(&address, params[i], sizeof address);
            std::printf("%s%zu", i ? ", " : "", address);
        } else {
            int number;
            std::memcpy(&number, params[i], sizeof number);
            std::printf(", %d", number);
        }
    }
    std::printf("]}\n");
    std::fflush(stdout);
    return 0;
}
#define SIZES unsigned a, unsigned b, unsigned c, unsigned d, unsigned e, unsigned f, unsigned g
extern "C" int cuLaunchKernel(void* kernel, SIZES, void* stream, void** params, void** extra) {
    return launched(extra ? "wrongly" : "plain", kernel, {a, b, c, d, e, f, g}, stream, params);
}
extern "C" int cuLaunchCooperativeKernel(void* kernel, SIZES, void* stream, void** params) {
    return launched("cooperative", kernel, {a, b, c, d, e, f, g}, stream, params);
}
"""

LAUNCHES = """
from types import SimpleNamespace
import cupy, numpy
from gpulstm.cuda.packed import NULL, Kernel, Series
memory = cupy.cuda.UnownedMemory(2**46, 4096, None, device_id=0)
x, y = (cupy.ndarray((4,), "float32", cupy.cuda.MemoryPointer(memory, at)) for at in (256, 1024))
cupy.cuda.get_current_stream = lambda: SimpleNamespace(ptr=2**40 + 8)
for cooperative in (False, True):
    function = SimpleNamespace(kernel=SimpleNamespace(ptr=2**45 + 16))
    kernel = Kernel(cupy, function, cooperative=cooperative)
    kernel.is_ready()
    kernel.launch((3, 2, 1), (64, 4, 1), (x, None, y), (-7, 2**31 - 1), 4096)
series = Series(Kernel(cupy, function), (5, 1, 1), (32, 1, 1), (x, NULL, y, None, numpy.int32(9)), 3, 1)
for number in (1, -2):
    series(number)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the library has the name that it has on Linux")
def test_what_is_laid_out_reaches_the_driver(tmp_path):
    pytest.importorskip("cupy", reason="CuPy is not installed")
    source = tmp_path / "driver.cpp"
    source.write_text(DRIVER)
    subprocess.run([compiler(), "-shared", "-fPIC", "-o", tmp_path / "libcuda.so.1", source], check=True)
    path = {"LD_LIBRARY_PATH": str(tmp_path), "PYTHONPATH": str(Path(__file__).parent.parent)}
    command = [sys.executable, "-c", LAUNCHES]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | path, timeout=60)
    assert done.returncode == 0, done.stderr
    x, y, stream, kernel = 2**46 + 256, 2**46 + 1024, 2**40 + 8, 2**45 + 16
    of_launch = {"kernel": kernel, "stream": stream, "sizes": [3, 2, 1, 64, 4, 1, 4096]}
    of_series = {"kernel": kernel, "stream": stream, "sizes": [5, 1, 1, 32, 1, 1, 0]}
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {"how": "plain", **of_launch, "arguments": [x, 0, y, -7, 2**31 - 1]},
        {"how": "cooperative", **of_launch, "arguments": [x, 0, y, -7, 2**31 - 1]},
        {"how": "plain", **of_series, "arguments": [x, 0, y, 1, 9]},
        {"how": "plain", **of_series, "arguments": [x, 0, y, -2, 9]},
    ]
