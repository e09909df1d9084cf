"""Each instruction of PTX that the kernels come to, as C++ over ``cpp/ptx.hpp``.

An instruction is a base and modifiers, "add.ftz.f32"; the type comes last. What is not in the tables, or has a modifier
that is not known, raises `PtxError`: nothing is guessed.
"""

from .ptx_memory import MEMORY
from .ptx_operands import C_TYPES, Operands, bits_of, elements
from .ptx_text import Instruction, PtxError

_FLOATS = ("f32", "f64")
_ROUNDED = {"rn", "rm", "ftz", "approx", "sat"}


def statement(instruction: Instruction, of: Operands) -> str:
    """The C++ statement of one instruction, less its predicate. Raises PtxError."""
    base, *modifiers = instruction.opcode.split(".")
    translate = MEMORY.get(base) or _TABLE.get(base)
    if translate is None:
        raise PtxError(f"instruction {instruction.opcode!r}")
    try:
        return translate(instruction, modifiers, of)
    except (KeyError, IndexError, ValueError) as error:
        raise PtxError(f"{instruction.opcode} {', '.join(instruction.operands)}: {error!r}") from None


def _known(modifiers: list[str], *allowed: str) -> str:
    """The type of an instruction, all of whose other modifiers are among those allowed."""
    *others, kind = modifiers
    unknown = set(others) - set(allowed)
    if unknown or kind not in C_TYPES:
        raise PtxError(f"modifiers {'.'.join(modifiers)}")
    return kind


def _flushed(expression: str, modifiers: list[str]) -> str:
    return f"ptx::flush({expression})" if "ftz" in modifiers else expression


def _arithmetic(function: str):
    """Of floating-point numbers: ``ptx::function``. Of integers: the same without a word about rounding, modulo 2^n."""

    def translate(one: Instruction, modifiers: list[str], of: Operands) -> str:
        to, *sources = one.operands
        kind = _known(modifiers, *_ROUNDED) if modifiers[-1] in _FLOATS else _known(modifiers)
        if kind not in _FLOATS:
            return of.write(to, kind, f"ptx::{function}_integer({', '.join(of.read(s, kind) for s in sources)})")
        rounding = "_down" if "rm" in modifiers else "_approx" if "approx" in modifiers else ""
        value = f"ptx::{function}{rounding}({', '.join(_flushed(of.read(s, kind), modifiers) for s in sources)})"
        value = _flushed(f"ptx::canonical({value})", modifiers)
        return of.write(to, kind, value)

    return translate


def _multiply(add: bool):
    """mul and mad of integers with .lo, .hi or .wide, and mul of floating-point numbers."""

    def translate(one: Instruction, modifiers: list[str], of: Operands) -> str:
        if modifiers[-1] in _FLOATS:
            return _arithmetic("mul")(one, modifiers, of)
        to, a, b, *rest = one.operands
        kind = _known(modifiers, "lo", "hi", "wide")
        which, wide = modifiers[0], f"{kind[0]}{2 * bits_of(kind)}"
        value = f"ptx::mul_{which}({of.read(a, kind)}, {of.read(b, kind)})"
        result = wide if which == "wide" else kind
        if add:
            value = f"ptx::add_integer(static_cast<{C_TYPES[result]}>({value}), {of.read(rest[0], result)})"
        return of.write(to, result, value)

    return translate


def _bitwise(operator: str):
    def translate(one: Instruction, modifiers: list[str], of: Operands) -> str:
        kind = _known(modifiers)
        to, *sources = one.operands
        values = [of.read(source, kind) for source in sources]
        if kind == "pred":
            symbol = {"~": "!", "^": "!="}.get(operator, operator)
        else:
            symbol = operator
        expression = f"{symbol}{values[0]}" if len(values) == 1 else f"{values[0]} {symbol} {values[1]}"
        return of.write(to, kind, f"static_cast<{C_TYPES[kind]}>({expression})")

    return translate


def _shift(function: str):
    def translate(one: Instruction, modifiers: list[str], of: Operands) -> str:
        kind = _known(modifiers)
        to, value, amount = one.operands
        return of.write(to, kind, f"ptx::{function}({of.read(value, kind)}, {of.read(amount, 'u32')})")

    return translate


# Unordered comparisons, which a NaN makes true, are the negations of the ordered ones that are opposite.
_COMPARISONS = {"eq": "a == b", "ne": "a < b || a > b", "lt": "a < b", "le": "a <= b", "gt": "a > b", "ge": "a >= b"}
_COMPARISONS |= {"equ": "!(a < b || a > b)", "neu": "!(a == b)", "ltu": "!(a >= b)", "leu": "!(a > b)"}
_COMPARISONS |= {"gtu": "!(a <= b)", "geu": "!(a < b)", "num": "a == a && b == b", "nan": "!(a == a && b == b)"}


def _set_predicate(one: Instruction, modifiers: list[str], of: Operands) -> str:
    comparison, *rest = modifiers
    kind = _known(rest, "ftz")
    to, a, b = one.operands
    a, b = (_flushed(of.read(operand, kind), rest) for operand in (a, b))
    test = _COMPARISONS[comparison]
    return f"{{ const auto a = {a}; const auto b = {b}; {of.write(to, 'pred', f'({test})')} }}"


def _select(one: Instruction, modifiers: list[str], of: Operands) -> str:
    kind = _known(modifiers)
    to, a, b, which = one.operands
    return of.write(to, kind, f"{of.read(which, 'pred')} ? {of.read(a, kind)} : {of.read(b, kind)}")


def _move(one: Instruction, modifiers: list[str], of: Operands) -> str:
    """Also between one word and its halves: mov.b64 %rd, {%r1, %r2}."""
    kind = _known(modifiers)
    to, source = one.operands
    if source.startswith("{"):
        low, high = elements(source)
        half = f"u{bits_of(kind) // 2}"
        return of.write(to, kind, f"ptx::joined({of.read(low, half)}, {of.read(high, half)})")
    if to.startswith("{"):
        low, high = elements(to)
        half = f"u{bits_of(kind) // 2}"
        whole = of.read(source, "u" + kind[1:])
        parts = (f"static_cast<{C_TYPES[half]}>({part})" for part in ("whole", f"whole >> {bits_of(half)}"))
        writes = " ".join(of.write(name, half, part) for name, part in zip((low, high), parts, strict=True))
        return f"{{ const auto whole = {whole}; {writes} }}"
    return of.write(to, kind, of.read(source, kind))


def _convert(one: Instruction, modifiers: list[str], of: Operands) -> str:
    """cvt[.rounding][.ftz][.sat].to.from; to or from f16, bf16 or tf32 the number lies in an integer register."""
    *how, to_kind, from_kind = modifiers
    to, source = one.operands
    if "f16" in (to_kind, from_kind) or to_kind in ("bf16", "tf32"):
        function, kinds = _NARROW[".".join(modifiers)]
        value = f"ptx::{function}({of.read(source, kinds[1])})"
        return of.write(to, kinds[0], value)
    value = of.read(source, from_kind)
    if from_kind == "f32":
        value = _flushed(value, how)
    if to_kind == from_kind == "f32":
        functions = {("rni",): "nearest_integer", ("ftz", "rni"): "nearest_integer"}
        functions |= {("sat",): "saturated", ("ftz", "sat"): "saturated"}
        return of.write(to, "f32", _flushed(f"ptx::{functions[tuple(sorted(how))]}({value})", how))
    if to_kind in _FLOATS:
        exact = to_kind == "f64" and (from_kind == "f32" or bits_of(from_kind) <= 32)
        if set(how) - {"ftz"} != (set() if to_kind == "f64" and from_kind == "f32" else {"rn"}) and not exact:
            raise PtxError(f"rounding {'.'.join(modifiers)}")
        value = f"static_cast<{C_TYPES[to_kind]}>({value})"
        return of.write(to, to_kind, _flushed(f"ptx::canonical({value})", how if to_kind == "f32" else []))
    if how or from_kind in _FLOATS:
        raise PtxError(f"conversion {'.'.join(modifiers)}")
    return of.write(to, to_kind, f"static_cast<{C_TYPES[to_kind]}>({value})")


_NARROW = {
    "f32.f16": ("f32_of_f16", ("f32", "u16")),
    "rn.f16.f32": ("f16_of_f32", ("u16", "f32")),
    "rn.bf16.f32": ("bf16_of_f32", ("u16", "f32")),
    "rna.tf32.f32": ("tf32_of_f32", ("u32", "f32")),
}


def _permute(one: Instruction, modifiers: list[str], of: Operands) -> str:
    to, a, b, selector = one.operands
    kind = _known(modifiers)
    return of.write(to, kind, f"ptx::prmt({', '.join(of.read(operand, kind) for operand in (a, b, selector))})")


def _insert_bits(one: Instruction, modifiers: list[str], of: Operands) -> str:
    kind = _known(modifiers)
    to, bits, into, position, length = one.operands
    values = [of.read(bits, kind), of.read(into, kind), of.read(position, "u32"), of.read(length, "u32")]
    return of.write(to, kind, f"ptx::insert_bits({', '.join(values)})")


def _shuffle(one: Instruction, modifiers: list[str], of: Operands) -> str:
    if modifiers[0] != "sync" or modifiers[2:] != ["b32"]:
        raise PtxError(f"shfl.{'.'.join(modifiers)}")
    to, *operands = one.operands
    value, inside = (*to.split("|"), "_")[:2]
    a, b, c, mask = (of.read(operand, "u32") for operand in operands)
    return (
        f"{{ bool inside; const uint32_t got = ptx::shuffle_{modifiers[1]}({a}, {b}, {c}, {mask}, inside, {one.line}); "
        f"{of.write(value, 'u32', 'got')} {of.write(inside, 'pred', 'inside')} }}"
    )


def _barrier(one: Instruction, modifiers: list[str], of: Operands) -> str:
    if modifiers == ["warp", "sync"]:
        mask = of.read(one.operands[0], "u32")
        return f"__syncwarp({mask}, {one.line});"
    if modifiers == ["sync"] and one.operands == ("0",):
        return f"host_cuda::barrier(0, {one.line});"
    if modifiers[0] == "red" and one.operands[1] == "0":
        to, _, predicate = one.operands
        function = {"popc": "count", "or": "or", "and": "and"}[modifiers[1]]
        value = f"__syncthreads_{function}({of.read(predicate, 'pred')}, {one.line})"
        kind = modifiers[2]
        return of.write(to, kind, f"{value} != 0" if kind == "pred" else f"static_cast<uint32_t>({value})")
    raise PtxError(f"{one.opcode} {', '.join(one.operands)}")


def _vote(one: Instruction, modifiers: list[str], of: Operands) -> str:
    to, predicate, mask = one.operands
    function = {"ballot.b32": "__ballot_sync", "any.pred": "__any_sync", "all.pred": "__all_sync"}
    if modifiers[0] != "sync":
        raise PtxError(one.opcode)
    value = f"{function['.'.join(modifiers[1:])]}({of.read(mask, 'u32')}, {of.read(predicate, 'pred')}, {one.line})"
    return of.write(to, modifiers[2], f"{value} != 0" if modifiers[2] == "pred" else value)


def _fence(one: Instruction, modifiers: list[str], of: Operands) -> str:
    """In one OS thread memory is always in order; but from here on the block sees what was written before."""
    if one.opcode not in ("membar.gl", "membar.cta", "fence.mbarrier_init.release.cluster"):
        raise PtxError(one.opcode)
    return "ptx::fence();" if one.opcode == "membar.gl" else ";"


def _other_barrier(one: Instruction, modifiers: list[str], of: Operands) -> str:
    if modifiers == ["sync", "aligned"] and one.operands == ("0",):  # warps may stand at different places
        return "host_cuda::barrier(0, 0);"
    halves = {
        "cluster.arrive.release": "cluster_arrive",
        "cluster.arrive": "cluster_arrive",
        "cluster.wait.acquire": "cluster_wait",
        "cluster.wait": "cluster_wait",
    }
    fence = " ptx::fence();" if modifiers[1] == "wait" else ""
    return f"host_cuda::{halves['.'.join(modifiers)]}({one.line});{fence}"


_PRODUCTS = {
    "m16n8k8.row.col.f32.tf32.tf32.f32": "product_tf32",
    "m16n8k16.row.col.f32.f16.f16.f32": "product_f16",
    "m16n8k16.row.col.f32.bf16.bf16.f32": "product_bf16",
}


def _matrix_product(one: Instruction, modifiers: list[str], of: Operands) -> str:
    if modifiers[:2] != ["sync", "aligned"]:
        raise PtxError(f"mma.{'.'.join(modifiers)}")
    operation = _PRODUCTS[".".join(modifiers[2:])]
    d, a, b, c = map(elements, one.operands)
    sums, first, second = (", ".join(of.read(x, kind) for x in xs) for xs, kind in ((c, "f32"), (a, "u32"), (b, "u32")))
    writes = " ".join(of.write(name, "f32", f"d[{i}]") for i, name in enumerate(d))
    return (
        f"{{ float d[4] = {{{sums}}}; const unsigned a[4] = {{{first}}}, b[2] = {{{second}}}; "
        f"host_cuda::multiply(host_cuda::WarpOp::{operation}, d, a, b, {one.line}); {writes} }}"
    )


def _branch(one: Instruction, modifiers: list[str], of: Operands) -> str:
    if modifiers not in ([], ["uni"]):
        raise PtxError(f"bra.{'.'.join(modifiers)}")
    return f"goto {label(one.operands[0])};"


def label(name: str) -> str:
    """Of a jump, in C++."""
    return "L_" + name.replace("$", "_")


_TABLE = {
    **{
        base: _arithmetic(base)
        for base in ("add", "sub", "div", "rem", "neg", "abs", "min", "max", "fma", "sqrt", "copysign")
    },
    **{base: _arithmetic(base) for base in ("rcp", "rsqrt", "ex2", "lg2")},
    **{"mul": _multiply(add=False), "mad": _multiply(add=True)},
    **{"and": _bitwise("&"), "or": _bitwise("|"), "xor": _bitwise("^"), "not": _bitwise("~")},
    **{"shl": _shift("shl"), "shr": _shift("shr")},
    **{"setp": _set_predicate, "selp": _select, "mov": _move, "cvt": _convert, "prmt": _permute, "bfi": _insert_bits},
    **{"shfl": _shuffle, "bar": _barrier, "barrier": _other_barrier, "mma": _matrix_product, "bra": _branch},
    "cvta": lambda one, modifiers, of: (
        of.write(one.operands[0], "u64", of.read(one.operands[1], "u64"))
        if modifiers == ["to", "global", "u64"]
        else _refuse(one)
    ),
    **{"vote": _vote, "fence": _fence, "membar": _fence},
    "ret": lambda one, modifiers, of: "return;",
    "exit": lambda one, modifiers, of: "return;",
    "trap": lambda one, modifiers, of: f'host_cuda::fail("trap", {one.line});',
    "nanosleep": lambda one, modifiers, of: f"host_cuda::yield({one.line});",
}


def _refuse(one: Instruction) -> str:
    raise PtxError(f"{one.opcode} {', '.join(one.operands)}")
