"""Reads PTX: the kernels of a module, with their parameters, registers, shared memory and instructions.

PTX is the assembly language that NVRTC writes and a GPU's driver reads (NVIDIA, "Parallel Thread Execution ISA"). What
is not understood raises `PtxError`, so that nothing is passed over.
"""

import re
from typing import NamedTuple


class PtxError(Exception):
    """PTX that these tests do not know."""


class Instruction(NamedTuple):
    predicate: str  # the register that decides whether it is done, or ""
    negated: bool
    opcode: str  # "add.ftz.f32"
    operands: tuple[str, ...]  # "%f1", "{%f1, %f2}", "[%rd1+16]", "%r1|%p1"
    line: int  # of the CUDA source, 0 where the compiler does not say


class Label(NamedTuple):
    name: str


class Variable(NamedTuple):
    """In shared memory, or in global memory if it stands outside of the kernels."""

    name: str
    alignment: int
    bytes: int


class Entry(NamedTuple):
    """A kernel. Names of inner scopes, as inline PTX opens them, have the scope's number behind them."""

    name: str
    parameters: tuple[str, ...]
    registers: dict[str, str]  # name -> "u16", "u32", "u64", "f32", "f64" or "pred"; its size counts, and float or not
    shared: tuple[Variable, ...]
    body: tuple[Instruction | Label, ...]
    most_threads: int  # of a block
    cluster: int  # blocks, 1 where none are asked for


class Module(NamedTuple):
    entries: tuple[Entry, ...]
    dynamic: frozenset[str]  # the names of the dynamic shared memory
    variables: tuple[Variable, ...]  # in global memory, zero at the beginning


_CLASSES = {"b8": "u16", "u8": "u16", "s8": "u16", "pred": "pred", "f32": "f32", "f64": "f64"}
_CLASSES |= {kind + bits: "u" + bits for kind in "bus" for bits in ("16", "32", "64")}
_BYTES = {"8": 1, "16": 2, "32": 4, "64": 8}

_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_ENTRY = re.compile(r"\.visible \.entry (?P<name>\w+)\((?P<parameters>[^)]*)\)(?P<bounds>[^{]*)\{")
_POINTER = r"(?:\.ptr\s+(?:\.\w+\s+)?\.align\s+\d+\s+)?"  # from compute_100 on
_PARAMETER = re.compile(rf"\.param\s+(?:\.align\s+\d+\s+)?\.\w+\s+{_POINTER}(\w+)")
_VARIABLE = re.compile(r"(?:\.extern )?\.shared \.align (\d+) \.[busf](\d+) ([\w$]+)(?:\[(\d*)\])?")
_GLOBAL = re.compile(r"(?:\.visible )?\.global \.align (\d+) \.[busf](\d+) ([\w$]+)(?:\[(\d+)\])?;")
_REGISTERS = re.compile(r"\.reg\s+\.(\w+)\s+(.*)", re.DOTALL)
_OUTSIDE = re.compile(r"\s*(?:\.(?:version|target|address_size|file)\b[^\n]*|\.section\s+\.\w+\s*\{[^}]*\}|;)")
_STATEMENT = re.compile(
    r"\s*(?:(?P<place>\.loc\s[^\n]*)|(?P<brace>[{}])|(?P<label>[\w$]+):(?!:)|(?P<text>[^\s{};][^;]*);|(?P<empty>;))"
)
_GUARD = re.compile(r"@(!?)(%?\w+)\s+")


def parse(text: str) -> Module:
    """The module that NVRTC's text describes. Raises PtxError."""
    text = _COMMENT.sub("", text)
    variables = tuple(_variable(match) for match in _GLOBAL.finditer(text))
    text = _GLOBAL.sub("", text)
    entries, dynamic, at = [], set(), 0
    while match := _ENTRY.search(text, at):
        dynamic |= _outside(text[at : match.start()])
        end = _end_of_body(text, match.end())
        entries.append(_entry(match, text[match.end() : end]))
        at = end + 1
    dynamic |= _outside(text[at:])
    if not entries:
        raise PtxError("there is no kernel in this PTX")
    return Module(tuple(entries), frozenset(dynamic), variables)


def _variable(match: re.Match) -> Variable:
    alignment, bits, name, extent = match.groups()
    return Variable(name, int(alignment), _BYTES[bits] * int(extent or 1))


def _outside(text: str) -> set[str]:
    """Names of dynamic shared memory; there is nothing else between kernels that counts."""
    found = {match[3] for match in _VARIABLE.finditer(text)}
    rest = _OUTSIDE.sub("", _VARIABLE.sub("", text)).strip()
    if rest:
        raise PtxError(f"{rest.splitlines()[0]!r} outside of a kernel")
    return found


def _end_of_body(text: str, start: int) -> int:
    depth = 1
    for brace in re.compile(r"[{}]").finditer(text, start):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return brace.start()
    raise PtxError("a kernel without an end")


def _entry(match: re.Match, body: str) -> Entry:
    parameters = tuple(_PARAMETER.findall(match["parameters"]))
    if len(parameters) != len([part for part in match["parameters"].split(",") if part.strip()]):
        raise PtxError(f"parameters of {match['name']}: {match['parameters'].strip()!r}")
    threads = re.search(r"\.(?:maxntid|reqntid) (\d+), (\d+), (\d+)", match["bounds"])
    cluster = re.search(r"\.reqnctapercluster (\d+), 1, 1", match["bounds"])
    reader = _Body()
    reader.read(body)
    return Entry(
        match["name"],
        parameters,
        reader.registers,
        tuple(reader.shared),
        reader.resolved(),
        int(threads[1]) * int(threads[2]) * int(threads[3]) if threads else 1024,
        int(cluster[1]) if cluster else 1,
    )


class _Body:
    """Reads what stands between the braces of a kernel. A scope is a number; the outermost is 0."""

    def __init__(self) -> None:
        self.registers: dict[str, str] = {}
        self.shared: list[Variable] = []
        self._statements: list[tuple[int, Instruction | Label]] = []  # with the scope of each
        self._parents = [0]
        self._names: list[set[str]] = [set()]  # what each scope declares: registers and labels

    def read(self, text: str) -> None:
        scope, at, line = 0, 0, 0
        while match := _STATEMENT.match(text, at):
            at = match.end()
            if match["place"]:
                line = int(match["place"].split()[2])
            elif match["brace"] == "{":
                self._parents.append(scope)
                self._names.append(set())
                scope = len(self._parents) - 1
            elif match["brace"]:
                scope = self._parents[scope]
            elif match["label"]:
                self._names[scope].add(match["label"])
                self._statements.append((scope, Label(match["label"])))
            elif match["text"]:
                self._statement(scope, match["text"].strip(), line)
        if text[at:].strip():
            raise PtxError(f"{text[at:].strip().splitlines()[0]!r} was not understood")

    def _statement(self, scope: int, text: str, line: int) -> None:
        if declared := _REGISTERS.fullmatch(text):
            self._declare(scope, *declared.groups())
        elif variable := _VARIABLE.fullmatch(text):
            self.shared.append(_variable(variable))
        elif not text.startswith(".pragma"):
            self._statements.append((scope, _instruction(text, line)))

    def _declare(self, scope: int, kind: str, names: str) -> None:
        if kind not in _CLASSES:
            raise PtxError(f"registers of type {kind}")
        for name in map(str.strip, names.split(",")):
            several = re.fullmatch(r"(%?\w+)<(\d+)>", name)
            all_names = [f"{several[1]}{i}" for i in range(int(several[2]))] if several else [name]
            for one in all_names:
                self._names[scope].add(one)
                self.registers[_in_scope(one, scope)] = _CLASSES[kind]

    def resolved(self) -> tuple[Instruction | Label, ...]:
        """The statements, with each name as its scope means it."""
        found: list[Instruction | Label] = []
        for scope, statement in self._statements:
            if isinstance(statement, Label):
                found.append(Label(_in_scope(statement.name, scope)))
                continue
            guard = self._name(statement.predicate, scope) if statement.predicate else ""
            operands = tuple(
                re.sub(r"(?<![\w$%])%?[A-Za-z_$][\w$]*", lambda name, scope=scope: self._name(name[0], scope), operand)
                for operand in statement.operands
            )
            found.append(statement._replace(predicate=guard, operands=operands))
        return tuple(found)

    def _name(self, name: str, scope: int) -> str:
        while name not in self._names[scope] and scope:
            scope = self._parents[scope]
        return _in_scope(name, scope) if name in self._names[scope] else name


def _in_scope(name: str, scope: int) -> str:
    return f"{name}__{scope}" if scope else name


def _instruction(text: str, line: int) -> Instruction:
    guard = _GUARD.match(text)
    rest = text[guard.end() :] if guard else text
    opcode, _, operands = rest.partition(" ") if " " in rest else rest.partition("\t")
    opcode, _, more = opcode.partition("\t")
    if not re.fullmatch(r"[a-z][\w.:]*", opcode):
        raise PtxError(f"{text!r} was not understood")
    return Instruction(
        guard[2] if guard else "", bool(guard and guard[1]), opcode, _operands((more + " " + operands).strip()), line
    )


def _operands(text: str) -> tuple[str, ...]:
    """Split at the commas that stand outside of braces."""
    found = re.findall(r"(?:\{[^}]*\}|[^,{])+", text)
    return tuple(part.strip() for part in found)
