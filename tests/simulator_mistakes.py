"""Kernels with one mistake each, beside the same kernel mended. They take (x: 40 numbers, y: 128 numbers, n = 40)."""

from dataclasses import dataclass

from tests.simulated import HEAD


@dataclass(frozen=True)
class Mistake:
    """``body`` has an @ where ``wrong`` or ``right`` stands."""

    name: str
    kind: str
    line: int
    thread: int
    message: str
    wrong: str
    right: str
    body: str
    arguments: str = "(const float* x, float* y, int n)"
    grid: int = 1

    def source(self, part: str) -> str:
        return f"{HEAD}k{self.arguments} {{{self.body.replace('@', part)}\n}}"


I = "\n int i = blockIdx.x * blockDim.x + threadIdx.x;"  # noqa: E741
T = "\n int t = threadIdx.x;"
WRITES_X = "(float* x, float* y, int n)"

OUTSIDE = [
    Mistake(
        "read outside",
        "out of bounds",
        3,
        8,
        "thread 8 of block 1 reads x[40], and x has 40 elements, 0 to 39.",
        "",
        "if (i < n) ",
        I + "\n @y[i] = x[i];",
        grid=2,
    ),
    Mistake(
        "write outside",
        "out of bounds",
        3,
        8,
        "thread 8 of block 1 writes x[40], and x has 40 elements, 0 to 39.",
        "",
        "if (i < n) ",
        I + "\n @x[i] = 1.0f;",
        WRITES_X,
        grid=2,
    ),
    Mistake(
        "change outside",
        "out of bounds",
        3,
        8,
        "thread 8 of block 1 reads x[40], and x has 40 elements, 0 to 39.",
        "",
        "if (i < n) ",
        I + "\n @x[i] += 1.0f;",
        WRITES_X,
        grid=2,
    ),
    Mistake(
        "atomic outside",
        "out of bounds",
        3,
        8,
        "thread 8 of block 1 changes x[40], and x has 40 elements, 0 to 39.",
        "",
        "if (i < n) ",
        I + "\n @atomicAdd(&x[i], 1.0f);",
        WRITES_X,
        grid=2,
    ),
    Mistake(
        "before the beginning",
        "out of bounds",
        3,
        0,
        "thread 0 of block 0 reads x[-1], and x has 40 elements, 0 to 39.",
        "",
        " && i > 0",
        I + "\n if (i < n@) y[i] = x[i - 1];",
        grid=2,
    ),
    Mistake(
        "through a pointer",
        "out of bounds",
        4,
        8,
        "thread 8 of block 1 reads x[40], and x has 40 elements, 0 to 39.",
        "",
        "if (i < n) ",
        I + "\n const float* p = x + i;\n @y[i] = *p;",
        grid=2,
    ),
    Mistake(
        "through a moving pointer",
        "out of bounds",
        3,
        0,
        "thread 0 of block 0 reads x[40], and x has 40 elements, 0 to 39.",
        "<=",
        "<",
        "\n float s = 0; const float* p = x;\n for (int k = 0; k @ n; k++) s += *p++;\n y[threadIdx.x] = s;",
    ),
    Mistake(
        "in shared memory",
        "out of bounds",
        3,
        31,
        "thread 31 of block 0 writes part[32], and part has 32 elements, 0 to 31.",
        " + 1",
        "",
        "\n __shared__ float part[32];\n part[threadIdx.x@] = x[threadIdx.x];",
    ),
    Mistake(
        "in a row of shared memory",
        "out of bounds",
        3,
        4,
        "thread 4 of block 0 writes tile[0][4], and tile is tile[8][4]: outside of it.",
        "8",
        "4",
        "\n __shared__ float tile[8][4];\n tile[threadIdx.x / @][threadIdx.x % @] = 1;",
    ),
    Mistake(
        "in a local array",
        "out of bounds",
        3,
        0,
        "thread 0 of block 0 writes own[4], and own has 4 elements, 0 to 3.",
        "<=",
        "<",
        "\n float own[4];\n for (int k = 0; k @ 4; k++) own[k] = k;",
    ),
]

GARBAGE = [
    Mistake(
        "shared memory not written",
        "uninitialised",
        4,
        31,
        "thread 31 of block 0 reads part[32] before anything was written to it; shared memory begins as garbage.",
        "",
        "if (t == 0) part[32] = 1; ",
        T + "\n __shared__ float part[33]; part[t] = 1; @\n __syncthreads(); y[t] = part[t + 1];",
    ),
    Mistake(
        "local array not written",
        "uninitialised",
        3,
        0,
        "thread 0 of block 0 reads own[1] before anything was written to it; a local array begins as garbage.",
        "",
        " = {1}",
        "\n float own[2]@;\n y[threadIdx.x] = own[1];",
    ),
    Mistake(
        "local number without value",
        "uninitialised",
        3,
        0,
        "thread 0 of block 0 reads sum before it was given a value; a local variable begins as garbage.",
        "",
        " = 0",
        "\n float sum@;\n for (int k = 0; k < 4; k++) sum += x[k];",
    ),
]

NUMBERS = [
    Mistake(
        "division by zero",
        "division by zero",
        2,
        0,
        "thread 0 of block 0 divides an integer by zero.",
        "40",
        "39",
        "\n int k = n / (n - @);",
    ),
    Mistake(
        "remainder by zero",
        "division by zero",
        2,
        0,
        "thread 0 of block 0 divides an integer by zero.",
        "",
        " + 1",
        "\n int k = n % (int)(threadIdx.x@);",
    ),
    Mistake("a shift too far", "shift", 2, 0, "is shifted by 40", "0", "20", "\n int k = 1 << (n - @);"),
]

RACES = [
    Mistake(
        "race in shared memory",
        "race",
        3,
        0,
        "race: thread 0 of block 0 writes part[0] here, and thread 31 of block 0 reads it in line 5 "
        "(y[t] = part[31 - t];), with no barrier between them: nothing says who is first.",
        "",
        "__syncthreads();",
        T + "\n __shared__ float part[32]; part[t] = x[t];\n @\n y[t] = part[31 - t];",
    ),
    Mistake(
        "race in global memory",
        "race",
        3,
        1,
        "race: thread 1 of block 0 writes y[1] here, and thread 0 of block 0 reads it in line 5",
        "",
        "__syncthreads();",
        T + "\n y[t] = x[t];\n @\n float next = t < 31 ? y[t + 1] : 0;",
    ),
    Mistake(
        "race of two warps, which a warp's barrier does not order",
        "race",
        3,
        32,
        "race: thread 32 of block 0 writes part[32] here, and thread 31 of block 0 reads it in line 5",
        "__syncwarp();",
        "__syncthreads();",
        T + "\n __shared__ float part[65]; part[t] = x[t % n]; if (t == 0) part[64] = 1;\n @\n y[t] = part[t + 1];",
    ),
    Mistake(
        "race between blocks",
        "race",
        2,
        0,
        "race: thread 0 of block 0 writes y[0] here, and thread 0 of block 1 writes it too in the same line, "
        "with no grid barrier between them",
        "",
        " + 32 * blockIdx.x",
        "\n y[threadIdx.x@] = 1;",
        grid=2,
    ),
    Mistake(
        "race between blocks, which a block's barrier does not order",
        "race",
        3,
        0,
        "race: thread 0 of block 0 writes y[0] here, and thread 31 of block 1 reads it in line 5 (y[64 + i] = y[63 - i];), "
        "with no grid barrier between them",
        "__syncthreads()",
        "cooperative_groups::this_grid().sync()",
        I + "\n y[i] = x[i % n];\n @;\n y[64 + i] = y[63 - i];",
        grid=2,
    ),
    Mistake(
        "everybody writes one number",
        "race",
        2,
        0,
        "race: thread 0 of block 0 writes y[0] here, and thread 1 of block 0 reads it in the same line",
        "y[0] += x[threadIdx.x]",
        "atomicAdd(&y[0], x[threadIdx.x])",
        "\n @;",
    ),
    Mistake(
        "an atomic against a plain write",
        "race",
        3,
        0,
        "race: thread 0 of block 0 writes y[0] here, and thread 1 of block 0 changes it in line 5",
        "",
        "__syncthreads();",
        T + "\n if (t == 0) y[0] = 0;\n @\n atomicAdd(y, 1.0f);",
    ),
    Mistake(
        "a flag without a fence",
        "race",
        4,
        0,
        "race: thread 0 of block 0 writes y[1] here, and thread 0 of block 1 reads it in line 9",
        "",
        "__threadfence();",
        "\n volatile float* flag = y;\n if (threadIdx.x == 0 && blockIdx.x == 0) {\n  y[1] = 1;\n  @\n  flag[0] = 1;\n"
        " } else if (threadIdx.x == 0) {\n  while (flag[0] == 0.0f) {}\n  y[2] = y[1];\n }",
        grid=2,
    ),
]

BARRIERS = [
    Mistake(
        "barrier in a branch",
        "divergent barrier",
        2,
        0,
        "not all threads reach this __syncthreads(): thread 0 of block 0 waits here, thread 16 of block 0 has ended before.",
        "16",
        "32",
        "\n if (threadIdx.x < @) __syncthreads();",
    ),
    Mistake(
        "two barriers",
        "divergent barrier",
        2,
        0,
        "thread 0 of block 0 waits here, thread 16 of block 0 waits in line 3.",
        "16",
        "32",
        "\n if (threadIdx.x < @) __syncthreads();\n else __syncthreads();",
    ),
    Mistake(
        "return before a barrier",
        "divergent barrier",
        3,
        0,
        "thread 0 of block 0 waits here, thread 20 of block 0 has ended before.",
        "20",
        "32",
        "\n if (threadIdx.x >= @) return;\n __syncthreads();",
    ),
    Mistake(
        "a block that leaves the grid's barrier out",
        "divergent barrier",
        2,
        0,
        "not all threads reach this barrier of the grid: thread 0 of block 0 waits here, thread 0 of block 1 has ended before.",
        "1",
        "2",
        "\n if (blockIdx.x < @) cooperative_groups::this_grid().sync();",
        grid=2,
    ),
    Mistake(
        "one at the block's barrier, one at the warp's",
        "divergent barrier",
        2,
        0,
        "thread 0 of block 0 waits here, thread 16 of block 0 waits in line 3.",
        "16",
        "32",
        "\n if (threadIdx.x < @) __syncthreads();\n else __syncwarp();",
    ),
    Mistake(
        "shuffle of a lane that has left",
        "shuffle",
        3,
        0,
        "thread 0 of block 0 asks lane 16 of its warp, which takes no part: its answer is garbage.",
        "16",
        "32",
        "\n if (threadIdx.x >= @) return;\n float v = __shfl_down_sync(0xffffffff, 1.0f, 16);",
    ),
    Mistake(
        "endless loop",
        "endless loop",
        2,
        0,
        "thread 0 of block 0 has gone round its loops more than 2,000 times: this one may never end.",
        ">=",
        ">",
        "\n for (int half = 16; half @ 0; half /= 2) y[threadIdx.x] = half;",
    ),
    Mistake(
        "a loop that does not count",
        "endless loop",
        2,
        0,
        "this one may never end",
        "0",
        "1",
        "\n int step = @ * n; for (int k = 0; k < n; k += step) y[threadIdx.x] = 1;",
    ),
    Mistake(
        "wait without end",
        "endless wait",
        2,
        0,
        "thread 0 of block 0 waits in this loop for what no other thread will ever write",
        "==",
        ">",
        "\n while (y[0] @ 0.0f) {}",
        "(const float* x, volatile float* y, int n)",
    ),
]

ALL = [*OUTSIDE, *GARBAGE, *NUMBERS, *RACES, *BARRIERS]

# What is refused before it runs: kind, line, part of the message, source
REFUSED = {
    "write to const": ("const", 2, "x is const", HEAD + "k(const float* x) {\n x[0] = 1; }"),
    "write to const through +=": ("const", 2, "x is const", HEAD + "k(const float* x) {\n x[0] += 1; }"),
    "atomic on const": ("const", 2, "x is const", HEAD + "k(const float* x) {\n atomicAdd(x, 1.0f); }"),
    "const forgotten": ("const", 2, "write const float*", HEAD + "k(const float* x) {\n float* p = x; }"),
    "const number": ("const", 3, "keeps its first value", HEAD + "k(int n) {\n const int m = n;\n m = 2; }"),
    "unknown function": ("unknown function", 2, "Is expf meant?", HEAD + "k(float* x) {\n x[0] = expff(1.0f); }"),
    "not declared": ("syntax", 2, "i is not declared", HEAD + "k(float* x) {\n x[i] = 1; }"),
    "semicolon": ("syntax", 3, "A missing ;", HEAD + "k(float* x) {\n x[0] = 1\n}"),
    "expression": ("syntax", 2, "this is not C", HEAD + "k(float* x) {\n x[0] = ;\n}"),
    "brace": ("syntax", None, "a closing brace } is missing", HEAD + "k(float* x) {\n x[0] = 1;\n"),
    "comment": ("syntax", 2, "never ends with */", HEAD + "k(float* x) {\n /* x[0] = 1; }"),
    "no kernel": ("syntax", None, "there is no kernel", "void k(float* x) {}"),
    "no extern": ("syntax", 1, 'write extern "C"', "__global__ void k(float* x) {}"),
    "not void": ("syntax", 1, "a kernel returns nothing", 'extern "C" __global__ float k(float* x) { return 1; }'),
    "threadIdx": ("syntax", 2, "threadIdx has three parts", HEAD + "k(float* x) {\n x[threadIdx] = 1; }"),
    "float index": ("syntax", 2, "an index must be an integer", HEAD + "k(float* x) {\n x[1.0f] = 1; }"),
    "row as number": ("syntax", 2, "one more [index]", HEAD + "k(float* x) {\n float a[2][2]; x[0] = a[1]; }"),
    "number as array": ("syntax", 2, "n is a number", HEAD + "k(int n) {\n n[0] = 1; }"),
    "array as number": ("syntax", 2, "x is an array", HEAD + "k(float* x) {\n x[0] = x; }"),
    "remainder of floats": ("syntax", 2, "fmodf", HEAD + "k(float* x) {\n x[0] = x[1] % 2.0f; }"),
    "arguments": ("syntax", 2, "takes 1 arguments", HEAD + "k(float* x) {\n x[0] = expf(1.0f, 2.0f); }"),
    "array size": ("syntax", 2, "must be a constant", HEAD + "k(int n) {\n float a[n]; }"),
    "shared value": ("syntax", 2, "no first value", HEAD + "k(int n) {\n __shared__ float a = 1; }"),
    "barrier as value": ("syntax", 2, "has no value", HEAD + "k(int n) {\n int a = __syncthreads(); }"),
    "circle": ("unsupported", 1, "calls itself", "__device__ int f(int a) { return f(a); }\n" + HEAD + "k(int n) { f(n); }"),
    "goto": ("unsupported", 2, "goto", HEAD + "k(int n) {\n again: goto again; }"),
    "switch": ("unsupported", 2, "switch", HEAD + "k(int n) {\n switch (n) { default: ; } }"),
    "struct": ("unsupported", 1, "struct", "struct A { int a; };\n" + HEAD + "k(int n) {}"),
    "template": ("unsupported", 1, "templates", "template <int N> __device__ void f() {}\n" + HEAD + "k(int n) {}"),
    "reference": ("unsupported", 1, "references", "__device__ void f(float& a) {}\n" + HEAD + "k(int n) {}"),
    "float4": ("unsupported", 2, "float4", HEAD + "k(float* x) {\n float4 a; }"),
    "half": ("unsupported", 1, "half", HEAD + "k(half* x) {}"),
    "auto": ("unsupported", 2, "auto", HEAD + "k(float* x) {\n auto a = 1; }"),
    "printf": ("unsupported", 2, "does not print", HEAD + 'k(float* x) {\n printf("%d", 1); }'),
    "macro": ("unsupported", 1, "write a function", "#define F(a) a\n" + HEAD + "k(int n) {}"),
    "#if": ("unsupported", 1, "#if 1", "#if 1\n" + HEAD + "k(int n) {}\n#endif"),
    "header": ("unsupported", 1, "#include <vector>", "#include <vector>\n" + HEAD + "k(int n) {}"),
    "global": ("unsupported", 1, "outside of functions", "__device__ int total;\n" + HEAD + "k(int n) {}"),
    "address of a number": ("unsupported", 2, "the address of a", HEAD + "k(int n) {\n int a; int* p = &a; }"),
    "other pointer": ("unsupported", 2, "another type", HEAD + "k(float* x) {\n int* p = (int*)x; }"),
}
