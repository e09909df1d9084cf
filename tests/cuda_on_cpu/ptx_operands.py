"""What an operand of PTX is in C++: how it is read as a type, and how a value of a type is written to it."""

import re

from .ptx_text import Entry, Module, PtxError

SHARED_START = 1024  # where a block's shared memory begins: a GPU keeps the first part for itself
C_TYPES = {"f32": "float", "f64": "double", "pred": "bool"}
C_TYPES |= {f"{kind}{bits}": f"uint{bits}_t" for kind in "ub" for bits in (8, 16, 32, 64)}
C_TYPES |= {f"s{bits}": f"int{bits}_t" for bits in (8, 16, 32, 64)}

_SPECIAL = {
    f"%{name}.{axis}": f"{variable}.{axis}"
    for name, variable in {"tid": "threadIdx", "ctaid": "blockIdx", "ntid": "blockDim", "nctaid": "gridDim"}.items()
    for axis in "xyz"
}
_SPECIAL |= {
    "%laneid": "host_cuda::lane()",
    "%cluster_ctarank": "host_cuda::cluster_rank()",
    "%clock_hi": "static_cast<uint32_t>(host_cuda::tick() >> 32)",
    "%clock64": "static_cast<uint64_t>(host_cuda::tick())",
    "WARP_SZ": "32",
}


def bits_of(kind: str) -> int:
    return 1 if kind == "pred" else int(kind[1:])


class Operands:
    """Those of one kernel: its registers, shared memory and parameters by name."""

    def __init__(self, entry: Entry, module: Module) -> None:
        self._registers, self._dynamic = entry.registers, module.dynamic
        self._variables = {variable.name for variable in module.variables}
        self._parameters = {name: i for i, name in enumerate(entry.parameters)}
        self._places: dict[str, int] = {}
        at = SHARED_START
        for variable in entry.shared:
            at = -(-at // variable.alignment) * variable.alignment
            self._places[variable.name] = at
            at += variable.bytes
        self.static_bytes = at - SHARED_START

    def variable(self, register: str) -> str:
        """The name of a register in C++."""
        if register not in self._registers:
            raise PtxError(f"{register!r} is no register")
        return "r_" + re.sub(r"\W", "_", register)

    def declarations(self) -> list[str]:
        """All registers, holding what nobody should use."""
        unused = {"f32": "ptx::unused_f32", "f64": "ptx::unused_f64", "pred": "false"}
        return [
            f"{C_TYPES[kind]} {self.variable(name)} = {unused.get(kind, _cast_to('0xdddddddd', kind))};"
            for name, kind in self._registers.items()
        ]

    def read(self, operand: str, kind: str) -> str:
        """The operand's value as an expression of type ``kind``: "s32", "f32", "pred", ..."""
        if operand in self._registers:
            return _cast(self.variable(operand), self._registers[operand], kind)
        if operand in _SPECIAL:
            return f"static_cast<{C_TYPES[kind]}>({_SPECIAL[operand]})"
        if operand in self._places:
            return f"static_cast<{C_TYPES[kind]}>({self._places[operand]}u)"
        if operand in self._dynamic:
            return f"static_cast<{C_TYPES[kind]}>(shared.dynamic_start)"
        if operand in self._variables:
            return f"reinterpret_cast<uint64_t>({operand})"
        if operand in self._parameters:
            return f"reinterpret_cast<uint64_t>(args[{self._parameters[operand]}])"
        return _literal(operand, kind)

    def write(self, operand: str, kind: str, value: str) -> str:
        """The statement that puts ``value``, an expression of type ``kind``, into a register."""
        if operand == "_":
            return f"(void)({value});"
        if operand not in self._registers:
            raise PtxError(f"{operand!r} cannot be written to")
        own = self._registers[operand]
        if own in ("f32", "f64") and kind != own and bits_of(kind) == bits_of(own):
            value = f"ptx::bits_as_{own}({value})"
        elif kind in ("f32", "f64") and kind != own:
            value = f"ptx::as_bits({value})"
            if bits_of(kind) != bits_of(own):
                raise PtxError(f"{kind} into a register of {own}")
        elif own != kind:
            value = f"static_cast<{C_TYPES[own]}>({value})"  # widened with the sign where `kind` has one
        return f"{self.variable(operand)} = {value};"

    def address(self, operand: str) -> str:
        """What "[%rd1+16]" or "[name]" leads to, as a number of 64 bits."""
        match = re.fullmatch(r"\[\s*([\w$%]+)\s*(?:\+\s*(-?\d+))?\s*\]", operand)
        if match is None:
            raise PtxError(f"address {operand!r}")
        base = self.read(match[1], "u64")
        return f"{base} + static_cast<uint64_t>({int(match[2])}ll)" if match[2] else base


def elements(operand: str) -> list[str]:
    """Those of a vector "{a, b}", or the operand itself."""
    return [part.strip() for part in operand[1:-1].split(",")] if operand.startswith("{") else [operand]


def _cast(name: str, own: str, kind: str) -> str:
    if own == kind:
        return name
    if "pred" in (own, kind):
        raise PtxError(f"a register of {own} read as {kind}")
    if own[0] == "f":
        if bits_of(own) != bits_of(kind) or kind[0] == "f":
            raise PtxError(f"a register of {own} read as {kind}")
        return _cast_to(f"ptx::as_bits({name})", kind)
    if kind[0] == "f":
        if bits_of(own) != bits_of(kind):
            raise PtxError(f"a register of {own} read as {kind}")
        return f"ptx::bits_as_{kind}({name})"
    return _cast_to(name, kind)


def _cast_to(expression: str, kind: str) -> str:
    return f"static_cast<{C_TYPES[kind]}>({expression})"


def _literal(text: str, kind: str) -> str:
    if match := re.fullmatch(r"0[fF]([0-9A-Fa-f]{8})", text):
        return f"ptx::bits_as_f32(0x{match[1]}u)" if kind == "f32" else f"static_cast<{C_TYPES[kind]}>(0x{match[1]}u)"
    if match := re.fullmatch(r"0[dD]([0-9A-Fa-f]{16})", text):
        return (
            f"ptx::bits_as_f64(0x{match[1]}ull)" if kind == "f64" else f"static_cast<{C_TYPES[kind]}>(0x{match[1]}ull)"
        )
    try:
        number = int(text.rstrip("U"), 0)
    except ValueError:
        raise PtxError(f"{text!r} is neither a register, nor a name, nor a number") from None
    if kind == "pred":
        return "true" if number else "false"
    if kind[0] == "f":
        raise PtxError(f"the integer {text} where a {kind} is wanted")
    return f"static_cast<{C_TYPES[kind]}>({number % 2**64}ull)"
