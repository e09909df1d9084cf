"""Random C expressions whose value the standard defines, for comparing the simulator with a C++ compiler."""

import random

INTEGERS = ("a", "b", "k", "3", "7", "(int)threadIdx.x")
UNSIGNED = ("u", "v", "threadIdx.x", "blockDim.x", "5u", "0xfffffff0u")
LONG = ("p", "1000000007ll", "(long long)a")
FLOATS = ("x", "y", "0.5f", "-3.25f", "1e-3f", "(float)a", "(float)u")
DOUBLES = ("d", "0.1", "2.5", "(double)x", "x")


class Expressions:
    """Writes expressions of one type each; nothing in them overflows a signed integer or divides by zero."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def pick(self, *choices):
        return self.random.choice(choices)

    def test(self, depth: int) -> str:
        make = self.pick(self.small, self.unsigned, self.floating)
        leaf = self.pick(*INTEGERS)
        compared = f"({make(depth - 1)} {self.pick('<', '>', '<=', '>=', '==', '!=')} {make(depth - 1)})"
        return self.pick(compared, f"!{compared}", f"({compared} && {leaf})", f"({compared} || {leaf})")

    def small(self, depth: int) -> str:
        """An int that stays far from its limits."""
        if depth <= 0:
            return self.pick(*INTEGERS)
        left, right = self.small(depth - 1), self.small(depth - 1)
        return self.pick(
            f"({left} {self.pick('+', '-', '&', '|', '^')} {right})",
            f"({self.pick(*INTEGERS)} * {self.pick(*INTEGERS)})",
            f"({left} {self.pick('/', '%')} ({right} | 1))",
            f"({self.test(depth - 1)} ? {left} : {right})",
            f"(- {left})",
            f"(~{left})",
            f"({left} >> {self.pick('1', '2', '(b & 3)')})",
            f"((int)({self.pick(*FLOATS[:4])}))",
            f"min({left}, {right})",
            f"max({left}, {right})",
            f"abs({left})",
            f"((bool)({left}) + (char)(b) + (short)(a))",
        )

    def unsigned(self, depth: int) -> str:
        if depth <= 0:
            return self.pick(*UNSIGNED)
        left, right = self.unsigned(depth - 1), self.pick(self.unsigned, self.small)(depth - 1)
        return self.pick(
            f"({left} {self.pick('+', '-', '*', '&', '|', '^')} {right})",
            f"({left} {self.pick('/', '%')} ({right} | 1u))",
            f"({left} << {self.pick('1', '5', '(u & 15)')})",
            f"({left} >> {self.pick('1', '5', '(u & 15)')})",
            f"({self.test(depth - 1)} ? {left} : {right})",
            f"(~{left})",
            f"(- {left})",
            f"((unsigned)({self.small(depth - 1)}))",
        )

    def long(self, depth: int) -> str:
        if depth <= 0:
            return self.pick(*LONG)
        left, right = self.pick(*LONG), self.pick(self.small, self.unsigned)(depth - 1)
        return self.pick(
            f"({left} {self.pick('+', '-', '&', '|', '^')} {right})",
            f"({left} * {self.pick(*INTEGERS)})",
            f"({left} {self.pick('/', '%')} ({right} | 1))",
            f"((long long)({right}) * 3)",
        )

    def floating(self, depth: int) -> str:
        if depth <= 0:
            return self.pick(*FLOATS)
        left, right = self.floating(depth - 1), self.pick(self.floating, self.small, self.unsigned)(depth - 1)
        return self.pick(
            f"({left} {self.pick('+', '-', '*', '/')} {right})",
            f"({left} {self.pick('+', '-', '*')} {right})",
            f"({self.test(depth - 1)} ? {left} : {right})",
            f"(- {left})",
            f"fminf({left}, {right})",
            f"fmaxf({left}, {right})",
            f"fabsf({left})",
            f"sqrtf(fabsf({left}))",
            f"fmaf({left}, {right}, {self.pick(*FLOATS)})",
        )

    def double(self, depth: int) -> str:
        if depth <= 0:
            return self.pick(*DOUBLES)
        left, right = self.double(depth - 1), self.pick(self.double, self.floating, self.small)(depth - 1)
        return self.pick(f"({left} {self.pick('+', '-', '*', '/')} {right})", f"({left} * {right})")


def kernel_source(seed: int, count: int, depth: int) -> str:
    """A kernel that stores ``count`` expressions of each type, per thread."""
    make = Expressions(seed)
    body = []
    for number in range(count):
        for target, kind in (("ri", "small"), ("ru", "unsigned"), ("rl", "long"), ("rf", "floating"), ("rd", "double")):
            body.append(f"    {target}[t * {count} + {number}] = {getattr(make, kind)(depth)};")
    lines = "\n".join(body)
    return f"""
extern "C" __global__ void many(const int* ia, const unsigned* ua, const long long* la, const float* fa,
        const double* da, int* ri, unsigned* ru, long long* rl, float* rf, double* rd) {{
    int t = threadIdx.x;
    int a = ia[t], b = ia[t + 16], k = t - 8;
    unsigned u = ua[t], v = ua[t + 16];
    long long p = la[t];
    float x = fa[t], y = fa[t + 16];
    double d = da[t];
{lines}
}}
"""
