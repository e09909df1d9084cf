"""What the simulator counts and draws: textbook patterns of access, by the numbers that a profiler gives for them."""

import time

import matplotlib
import numpy as np
import pytest

from tests.simulated import HEAD, kernels, refusal, run

matplotlib.use("Agg")
COPY = HEAD + "k(const TYPE* x, TYPE* y, int stride, int shift) {{ int i = threadIdx.x; y[i] = x[{index}]; }}"


def copied(index, dtype="float32", stride=1, shift=0, block=32, x=None):
    source = COPY.format(index=index).replace("TYPE", {"float32": "float", "float64": "double", "int8": "char"}[dtype])
    x = np.zeros(4096, dtype) if x is None else x
    return run(source, 1, block, x, np.zeros(block, dtype), np.int32(stride), np.int32(shift)).counts


@pytest.mark.parametrize(
    ("index", "stride", "shift", "sectors"),
    [
        ("i", 1, 0, 4),
        ("31 - i", 1, 0, 4),
        ("i ^ 5", 1, 0, 4),
        ("i * stride", 2, 0, 8),
        ("i * stride", 4, 0, 16),
        ("i * stride", 8, 0, 32),
        ("i * stride", 32, 0, 32),
        ("i + shift", 1, 1, 5),
        ("i + shift", 1, 8, 4),
        ("shift", 1, 3, 1),
        ("i / 8 * 8", 1, 0, 4),
        ("(i % 4) * 100", 1, 0, 4),
    ],
)
def test_sectors_of_one_request_to_global_memory(index, stride, shift, sectors):
    counts = copied(index, stride=stride, shift=shift)
    assert counts.requests("x") == 1
    assert counts.sectors_per_request("x") == sectors
    assert counts.sectors_per_request("y", "store") == 4
    assert counts.bytes_moved("x") == 32 * sectors and counts.bytes_wanted("x") == 128


def test_sectors_depend_on_the_size_of_an_element_and_on_where_a_view_begins():
    assert copied("i", "float64").sectors_per_request("x") == 8
    assert copied("i", "int8").sectors_per_request("x") == 1
    whole = np.zeros(4096, np.float32)
    assert copied("i", x=whole[1:]).sectors_per_request("x") == 5
    assert copied("i", x=whole[8:]).sectors_per_request("x") == 4
    assert copied("i", x=whole.reshape(64, 64)[3:5]).sectors_per_request("x") == 4


def test_half_a_warp_and_several_warps():
    counts = copied("i", block=16)
    assert counts.sectors_per_request("x") == 2
    counts = copied("i", block=80)
    assert counts.requests("x") == 3 and counts.sectors("x") == 10


@pytest.mark.parametrize(
    ("declared", "index", "passes"),
    [
        ("float s[32][32]", "[i][0]", 32),
        ("float s[32][33]", "[i][0]", 1),
        ("float s[32][32]", "[0][i]", 1),
        ("float s[1024]", "[i * 2]", 2),
        ("float s[1024]", "[i % 2 * 32]", 2),
        ("float s[1024]", "[7]", 1),
        ("float s[1024]", "[i / 4]", 1),
        ("double s[64]", "[i]", 2),
        ("double s[1024]", "[i * 16]", 32),
        ("double s[64]", "[7]", 1),
    ],
)
def test_passes_of_one_request_through_the_banks_of_shared_memory(declared, index, passes):
    kind, _, size = declared.partition(" ")
    flat = np.prod([int(part) for part in size[1:].strip("[]").split("][")])
    fill = f"{kind}* p = {'&s[0][0]' if '][' in size else 's'}; for (int k = i; k < {flat}; k += 32) p[k] = 0;"
    source = f"{HEAD}k({kind}* y) {{ int i = threadIdx.x; __shared__ {declared}; {fill} __syncthreads();"
    source += f"\n y[i] = s{index}; }}"
    counts = run(source, 1, 32, np.zeros(32, "float64" if kind == "double" else "float32")).counts
    (row,) = [row for row in counts.rows if row.line == 2 and row.array == "s"]
    assert (row.requests, row.passes) == (1, passes)


def test_bank_conflicts_are_the_passes_too_many():
    source = HEAD + "k(float* y) { __shared__ float s[64]; int t = threadIdx.x; s[2 * t] = 1; y[t] = s[2 * t]; }"
    counts = run(source, 1, 32, np.zeros(32, np.float32)).counts
    assert counts.passes_per_request("s") == 2 and counts.bank_conflicts() == counts.bank_conflicts("s") == 2


def test_loads_stores_barriers_and_flops():
    source = (
        HEAD
        + """k(const float* x, const float* w, float* y, int n) {
        __shared__ float part[64];
        float sum = 0;
        for (int k = 0; k < n; k++) sum += x[k] * w[threadIdx.x];
        part[threadIdx.x] = sum;
        __syncthreads();
        if (threadIdx.x == 0) y[blockIdx.x] = part[0] + expf(part[1]);
        __syncthreads();
    }"""
    )
    counts = run(source, 3, 64, *(np.ones(64, np.float32) for _ in range(3)), np.int32(5)).counts
    assert counts.loads() == 2 * counts.loads("x") == 2 * 5 * 64 * 3
    assert counts.stores() == 3 and counts.stores("part") == 0 and counts.shared_stores("part") == 192
    assert counts.shared_loads() == 6
    assert counts.barriers == 2 and counts.blocks == 3 and counts.threads == 192
    assert counts.flops == 192 * 5 * 2 + 3 * 2
    assert counts.flops_by_line == {4: 192 * 10, 7: 6}
    assert counts.sectors_per_request("x") == 1  # everybody the same element
    assert counts.requests("x", "load") == 3 * 2 * 5


def test_lanes_of_a_warp_are_matched_between_barriers_however_they_are_ordered():
    source = (
        HEAD
        + """k(const float* x, float* y) {
        int t = threadIdx.x; float s = 0;
        for (int k = 0; k < 4; k++) { s += x[k * 64 + t]; __syncthreads(); }
        y[t] = s;
    }"""
    )
    tables = []
    for order in ("in order", "reverse", "random"):
        made = run(source, 1, 64, np.zeros(256, np.float32), np.zeros(64, np.float32), order=order)
        tables.append([(row.line, row.kind, row.requests, row.sectors) for row in made.counts.rows])
    assert tables == [[(3, "load", 8, 32), (4, "store", 2, 8)]] * 3


def test_a_device_function_reads_whatever_array_it_is_given():
    source = "__device__ float at(const float* p, int i) { return p[i]; }\n" + HEAD
    source += "k(const float* x, const float* w, float* y) { __shared__ float s[32]; int t = threadIdx.x; s[t] = 1;\n"
    source += "y[t] = at(x, t) + at(w, 2 * t) + at(s, t); }"
    counts = run(source, 1, 32, *(np.zeros(64, np.float32) for _ in range(3))).counts
    assert counts.sectors_per_request("x") == 4 and counts.sectors_per_request("w") == 8
    assert counts.shared_loads("s") == 32 and counts.loads() == 64


def test_one_array_under_two_names_is_counted_by_name_and_an_atomic_addition_is_an_operation():
    source = (
        HEAD + "k(const float* x, float* y, float* total) { int t = threadIdx.x; y[t] = x[t]; atomicAdd(total, 1.0f); }"
    )
    x = np.zeros(32, np.float32)
    counts = run(source, 1, 32, x, x, np.zeros(1, np.float32)).counts
    assert counts.loads("x") == counts.stores("y") == counts.atomics("total") == 32
    assert counts.loads("y") == counts.stores("x") == 0
    assert counts.flops == 32 and counts.flops_per_thread == 1


def test_the_accesses_are_there_one_by_one():
    source = HEAD + "k(const float* x, float* y) {\n int i = blockIdx.x * 32 + threadIdx.x;\n y[i] = x[63 - i];\n}"
    made = run(source, 2, 32, np.zeros(64, np.float32), np.zeros(64, np.float32))
    table = made.accesses
    reads = table[(table["array"] == "x") & (table["kind"] == "load")]
    np.testing.assert_array_equal(reads["element"], 63 - np.arange(64))
    np.testing.assert_array_equal(reads["block"] * 32 + reads["thread"], np.arange(64))
    assert set(table["line"]) == {3} and len(table) == 128
    assert len(set(table["request"])) == 4


REPORT = """\
k: 2 blocks of 32 threads, 64 threads in 2 warps
line  what   array  memory  elements  requests  per request
   4  load   x      global        64         2  8.0 sectors  s[t] = x[2 * t];
   4  store  s      shared        64         2   1.0 passes  s[t] = x[2 * t];
   7  load   s      shared        64         2   1.0 passes  y[first + t] = 2 * s[31 - t];
   7  store  y      global        64         2  4.0 sectors  y[first + t] = 2 * s[31 - t];
global memory: 24 sectors of 32 bytes, 768 bytes, 67 % of them wanted
shared memory: no passes more than without bank conflicts
about 1.0 floating-point operations a thread; 1 barrier in a block
nothing found that is wrong
"""
REPORTED = (
    HEAD
    + """k(const float* x, float* y) {
    int t = threadIdx.x, first = blockIdx.x * blockDim.x;
    __shared__ float s[32];
    s[t] = x[2 * t];
    __syncthreads();

    y[first + t] = 2 * s[31 - t];
}"""
)


def reported(source, capsys, **settings):
    run(source, 2, 32, np.zeros(64, np.float32), np.zeros(64, np.float32), **settings).report()
    return capsys.readouterr().out


def test_the_report_is_a_table_and_the_same_each_time(capsys):
    first = reported(REPORTED, capsys)
    assert first == REPORT
    assert first == reported(REPORTED, capsys) == reported(REPORTED, capsys, order="random", seed=3)


def test_the_report_has_the_findings(capsys):
    text = reported(REPORTED.replace("__syncthreads();", ""), capsys, strict=False)
    assert "Line 4: race: thread 0 of block 0 writes s[0] here" in text and "nothing found" not in text
    assert "0 barriers in a block" in text


def test_after_a_mistake_the_report_is_of_what_had_happened(capsys):
    made = kernels.simulate(HEAD + "k(float* y) {\n y[threadIdx.x] = 1;\n}")
    with pytest.raises(kernels.KernelError):
        made(1, 64, np.zeros(40, np.float32))
    made.report()
    text = capsys.readouterr().out
    assert "   2  store  y      global        40" in text
    assert "stopped before the end" in text and "thread 40 of block 0 writes y[40]" in text


def cells(figure):
    """(text, x, y) of each number, and how many cells are hatched."""
    (axes,) = figure.axes
    texts = {(int(text.get_position()[1]), int(text.get_position()[0])): text.get_text() for text in axes.texts}
    return texts, sum(1 for patch in axes.patches if patch.get_hatch()), axes.get_title()


@pytest.fixture
def strided():
    source = HEAD + "k(const float* x, float* y, int stride) {\n y[threadIdx.x] = x[threadIdx.x * stride];\n}"

    def make(stride, shape=(4096,)):
        return run(source, 1, 64, np.zeros(shape, np.float32), np.zeros(64, np.float32), np.int32(stride))

    return make


def test_the_drawing_has_the_threads_where_they_read(strided):
    from matplotlib import pyplot as plt

    texts, hatched, title = cells(strided(1).draw("y"))
    assert texts == {(0, lane): str(lane) for lane in range(32)} and hatched == 0
    assert title == "y: one store of a warp, line 2, 4 sectors of 32 bytes"
    texts, hatched, title = cells(strided(2).draw("x", kind="load"))
    assert texts == {divmod(2 * lane, 32): str(lane) for lane in range(32)} and hatched == 32
    assert "8 sectors" in title
    texts, _, _ = cells(strided(64, (64, 64)).draw("x"))
    assert texts == {(lane, 0): str(lane) for lane in range(32)}
    texts, _, _ = cells(strided(1).draw("y", warp=1, shape=(8, 8)))
    assert texts == {divmod(32 + lane, 8): str(lane) for lane in range(32)}
    texts, _, title = cells(strided(0).draw("x"))
    assert texts == {(0, 0): "all"} and "1 sector of" in title
    plt.close("all")


def test_the_drawing_is_in_greys_and_readable(strided):
    from matplotlib import pyplot as plt
    from matplotlib.colors import to_rgb

    (axes,) = strided(1).draw("y").axes
    for patch in axes.patches:
        red, green, blue, _ = patch.get_facecolor()
        assert red == green == blue
    for text in axes.texts:
        lane = int(text.get_text())
        ground = axes.patches[lane].get_facecolor()[0]
        assert abs(to_rgb(text.get_color())[0] - ground) > 0.4
    plt.close("all")


def test_what_is_not_there_cannot_be_drawn(strided):
    made = strided(1)
    for settings, message in [
        ({"array": "z"}, "k has no array z; it has x, y"),
        ({"array": "x", "kind": "store"}, "warp 0 of block 0 does not touch x like this; the launch touched x, y"),
        ({"array": "x", "warp": 2}, "warp 2 of block 0 does not touch x"),
        ({"array": "x", "request": 1}, "there are requests 0 to 0"),
    ]:
        with pytest.raises(kernels.KernelError, match=message):
            made.draw(**settings)


SIGMOID = (
    HEAD
    + """sigmoid(const float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = 1.0f / (1.0f + expf(-x[i]));
}"""
)
SWEEP = """
#include <cooperative_groups.h>
__device__ float sigmoid(float a) { return 1.0f / (1.0f + expf(-a)); }
extern "C" __global__ void sweep(const float* xw, const float* R, float* h, float* c, int T, int N, int H) {
    cooperative_groups::grid_group grid = cooperative_groups::this_grid();
    int index = blockIdx.x * blockDim.x + threadIdx.x;
    int row = index / H, j = index % H;
    for (int t = 0; t < T; t++) {
        const float* before = h + t * N * H + row * H;
        float a[4];
        for (int g = 0; g < 4; g++) {
            float sum = xw[((t * N + row) * 4 + g) * H + j];
            for (int k = 0; k < H; k++) sum += R[(g * H + j) * H + k] * before[k];
            a[g] = sum;
        }
        float cell = sigmoid(a[1]) * c[index] + sigmoid(a[0]) * tanhf(a[2]);
        c[index] = cell;
        h[(t + 1) * N * H + index] = sigmoid(a[3]) * tanhf(cell);
        grid.sync();
    }
}"""


def sweep_in_numpy(xw, R, steps, batch, hidden):
    h, c = np.zeros((batch, hidden)), np.zeros((batch, hidden))
    for step in range(steps):
        i, f, g, o = np.split(xw[step] + h @ R.T, 4, axis=1)
        i, f, o = (1 / (1 + np.exp(-a)) for a in (i, f, o))
        c = f * c + i * np.tanh(g)
        h = o * np.tanh(c)
    return h, c


def test_a_persistent_sweep_over_all_steps_is_right_and_fast_enough():
    steps, batch, hidden = 8, 8, 16
    rng = np.random.default_rng(0)
    xw = rng.normal(size=(steps, batch, 4 * hidden)).astype(np.float32)
    R = rng.normal(size=(4 * hidden, hidden)).astype(np.float32) / 4
    h, c = np.zeros((steps + 1, batch, hidden), np.float32), np.zeros((batch, hidden), np.float32)
    scalars = [np.int32(size) for size in (steps, batch, hidden)]
    begin = time.perf_counter()
    made = run(SWEEP, 4, 32, xw, R, h, c, *scalars)
    seconds = time.perf_counter() - begin
    expected = sweep_in_numpy(xw.astype(float), R.astype(float), steps, batch, hidden)
    np.testing.assert_allclose(h[-1], expected[0], atol=1e-5)
    np.testing.assert_allclose(c, expected[1], atol=1e-5)
    assert made.counts.grid_barriers == steps
    assert seconds < 9, seconds  # three times what is aimed at, for a busy machine
    assert refusal(SWEEP.replace("grid.sync();", ""), 4, 16, xw, R, h, c, *scalars).kind == "race"


def test_a_sigmoid_of_4096_numbers_is_fast_enough():
    x = np.linspace(-9, 9, 4096, dtype=np.float32)
    y = np.zeros_like(x)
    begin = time.perf_counter()
    run(SIGMOID, 32, 128, x, y, np.int32(4096))
    assert time.perf_counter() - begin < 3
    np.testing.assert_allclose(y, 1 / (1 + np.exp(-x)), rtol=1e-6)
