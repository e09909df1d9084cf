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

GARBAGE.append(
    Mistake(
        "shared memory changed before it was written",
        "uninitialised",
        3,
        0,
        "thread 0 of block 0 reads s[0] before anything was written to it",
        "",
        "s[t] = 0; ",
        T + "\n __shared__ float s[32]; @s[t] += 1;",
    )
)
GARBAGE.append(
    Mistake(
        "shared memory of the other block",
        "uninitialised",
        4,
        0,
        "thread 0 of block 1 reads s[0] before anything was written to it",
        "if (blockIdx.x == 0) ",
        "",
        T + "\n __shared__ float s[32]; @s[t] = 1;\n float v = s[t]; cooperative_groups::this_grid().sync();",
        grid=2,
    )
)
GARBAGE.append(
    Mistake(
        "pointer without value",
        "uninitialised",
        3,
        0,
        "thread 0 of block 0 writes p[1], and p was not made to point to anything.",
        "",
        "p = y + threadIdx.x * 2; ",
        "\n float* p;\n @p[1] = 2;",
    )
)

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

ALL = [*OUTSIDE, *GARBAGE, *NUMBERS]
