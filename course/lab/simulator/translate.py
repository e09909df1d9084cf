"""From a kernel's source to a Python program, function by function. Its parts have modules of their own."""

from dataclasses import dataclass, replace

from pycparser import c_ast

from . import builtins, numbers_of_c
from .calls import Calls
from .errors import KernelError
from .expressions import CONSTANTS, Expressions
from .loops import Loops, called, has_break, loops, names_written
from .numbers_of_c import Scalar
from .places import SITE_BITS, Places
from .runtime import round_float
from .source import Prepared, parse
from .statements import Statements
from .values import (
    Function,
    Parameter,
    Pointer,
    PointerVariable,
    Root,
    SharedArray,
    Site,
    Value,
    Variable,
)

# An element's number in the log tells where it is: global memory is below both.
LOCAL_BASE, SHARED_BASE = 1 << SITE_BITS - 2, 1 << SITE_BITS - 1


@dataclass(frozen=True)
class Program:
    """A translated source."""

    prepared: Prepared
    python: str
    sites: tuple[Site, ...]
    kernels: dict[str, Function]
    shared: tuple[SharedArray, ...]
    launch_constants: dict[str, tuple[int, str]]  # name -> (site, array)
    together: bool  # blocks wait for each other

    @property
    def shared_bytes(self) -> int:
        return max(
            (array.offset + array.length * array.type.size for array in self.shared if not array.dynamic), default=0
        )


def translate(prepared: Prepared) -> Program:
    """Raises KernelError with the learner's line for what C refuses and for what the simulator does not know."""
    return Translator(prepared).program()


class Translator(Places, Expressions, Calls, Loops, Statements):
    """One translation."""

    def __init__(self, prepared: Prepared) -> None:
        self.prepared = prepared
        self.tree = parse(prepared)
        self.typedefs: dict[str, Scalar] = {}
        self.globals: dict[str, Value] = {}
        self.functions: dict[str, Function] = {}
        self.sites: list[Site] = []
        self.shared: list[SharedArray] = []
        self.shared_numbers: set[Root] = set()
        self.launch_constants: dict[str, tuple[int, str]] = {}
        self.output: list[tuple[int, str, int | None]] = []
        self.scopes: list[dict] = [{}]
        self.function: Function | None = None
        self.loops: list = []
        self.depth = self.flops = self.temporaries = 0
        self.current_line: int | None = None

    round_float = staticmethod(round_float)

    def program(self) -> Program:
        for node in self.tree.ext:
            self.top_level(node)
        self.find_waits()
        for function in self.functions.values():
            self.define(function)
        python = "\n".join("    " * depth + code for depth, code, _ in self.output) + "\n"
        kernels = {name: function for name, function in self.functions.items() if function.is_kernel}
        together = self.prepared.uses_grid_sync or any(function.spins for function in self.functions.values())
        parts = (tuple(self.sites), kernels, tuple(self.shared), self.launch_constants, together)
        return Program(self.prepared, python, *parts)

    # what stands outside of functions

    def top_level(self, node) -> None:
        self.current_line = self.line(node)
        if isinstance(node, c_ast.Typedef):
            declared = self.declared_type(node)
            if not isinstance(declared, Scalar):
                raise self.error("unsupported", "typedef is for types of numbers here.", node)
            self.typedefs[node.name] = declared
        elif isinstance(node, c_ast.FuncDef):
            self.declare_function(node)
        elif isinstance(node, c_ast.Decl) and isinstance(node.type, c_ast.FuncDecl):
            return  # its definition follows
        elif isinstance(node, c_ast.Decl) and "const" in node.quals and node.init is not None:
            value = self.convert(self.value(node.init), self.declared_type(node))
            self.globals[node.name] = value
        elif not isinstance(node, c_ast.Pragma):
            message = "outside of functions only functions and constants (const int H = 8;) are known here."
            raise self.error("unsupported", message, node)

    def declare_function(self, node) -> None:
        name = node.decl.name
        if name in self.functions or name in builtins.known():
            raise self.error("syntax", f"there are two functions named {name}.", node)
        listed = node.decl.type.args.params if node.decl.type.args else []
        parameters = tuple(self.parameter(part) for part in listed if not _is_void(part))
        names = node.decl.type.type
        if isinstance(names, c_ast.PtrDecl):
            raise self.error("unsupported", f"{name} returns a pointer: let it return an index.", node)
        result = None if names.type.names == ["void"] else self.scalar_of(names)
        is_kernel = name in self.prepared.kernels
        self.functions[name] = Function(name, node, is_kernel, result, parameters, names_written(node.body))

    def parameter(self, node) -> Parameter:
        if not isinstance(node, c_ast.Decl):
            raise self.error("syntax", "an argument has no name.", node)
        declared = self.declared_type(node)
        if isinstance(declared, Scalar):
            return Parameter(node.name, declared, False)
        return Parameter(node.name, declared.scalar, True, declared.const, declared.volatile, declared.dims)

    # types

    def declared_type(self, node) -> Scalar | Pointer:
        """What a declaration or a cast names: a type of number, or a pointer that leads nowhere yet."""
        inner, dims, pointers, outer_array = node.type, [], 0, isinstance(node.type, c_ast.ArrayDecl)
        while not isinstance(inner, c_ast.TypeDecl):
            if isinstance(inner, c_ast.ArrayDecl):
                dims.append(None if inner.dim is None else self.size(inner.dim))
            elif isinstance(inner, c_ast.PtrDecl):
                pointers += 1
            else:
                raise self.error("unsupported", "this type is more than the simulator knows.", node)
            inner = inner.type
        scalar = self.scalar_of(inner)
        if not pointers and not dims:
            return scalar
        if pointers > 1 or pointers and outer_array:
            raise self.error("unsupported", "pointers to pointers are more than the simulator knows.", node)
        flags = {"const": "const" in inner.quals, "volatile": "volatile" in inner.quals}
        limit = dims.pop(0) if outer_array else None
        return Pointer(scalar, None, dims=tuple(dims), limit=limit, **flags)

    def size(self, node) -> int:
        size = self.integer(node).constant
        if size is None or size <= 0:
            raise self.error("syntax", "the size of an array must be a constant above 0 here: #define N 32.", node)
        return size

    def scalar_of(self, node) -> Scalar:
        if not isinstance(node.type, c_ast.IdentifierType):
            raise self.error("unsupported", "this type is more than the simulator knows.", node)
        words = node.type.names
        found = self.typedefs.get(words[0]) if len(words) == 1 else None
        found = found or numbers_of_c.named(words)
        if found is None:
            raise self.error("syntax", f"the type {' '.join(words)} is not known here.", node)
        return found

    # which functions wait for other threads

    def find_waits(self) -> None:
        for function in self.functions.values():
            names = called(function.node.body)
            function.waits = any(name in builtins.WAITS for name in names)
            for loop in loops(function.node.body):
                endless = isinstance(loop, c_ast.For) and not has_break(loop.stmt) and self.counting_parts(loop)
                if self.is_synchronising(loop) and not endless:
                    function.waits = function.spins = True
        for _ in self.functions:  # a caller of one that waits waits too
            for function in self.functions.values():
                inner = called(function.node.body) & self.functions.keys()
                function.waits = function.waits or any(self.functions[name].waits for name in inner)
        for function in self.functions.values():
            if function.name in self.reachable(function.name, set()):
                message = f"{function.name} calls itself, in a circle: write a loop."
                raise self.error("unsupported", message, function.node)

    def reachable(self, name: str, seen: set[str]) -> set[str]:
        for inner in (called(self.functions[name].node.body) & self.functions.keys()) - seen:
            seen.add(inner)
            self.reachable(inner, seen)
        return seen

    def is_synchronising(self, node) -> bool:
        """Whether ``node`` reads what other threads change on purpose: something volatile, or by an atomic."""
        if isinstance(node, c_ast.FuncCall) and isinstance(node.name, c_ast.ID):
            inner = self.functions.get(node.name.name)
            if node.name.name in builtins.ATOMICS or inner is not None and self.is_synchronising(inner.node.body):
                return True
        if isinstance(node, c_ast.TypeDecl) and "volatile" in node.quals:
            return True
        if isinstance(node, c_ast.ID) and node.name in self.volatile_names():
            return True
        return any(self.is_synchronising(child) for child in node or ())

    def volatile_names(self) -> set[str]:
        if not hasattr(self, "_volatile_names"):
            self._volatile_names = set(_volatile(self.tree))
        return self._volatile_names

    # one function

    def define(self, function: Function) -> None:
        self.function, self.scopes, self.names, self.loops = function, [{}], {}, []
        self.current_line = self.line(function.node)
        scalars, pointers = [], []
        for parameter in function.parameters:
            if parameter.is_pointer:
                pointers.append(parameter)
                if function.is_kernel:
                    continue
            scalars.append(self.python_name(parameter.name))
        self.depth = 0
        self.emit(f"def f_{function.name}({', '.join(['T', *scalars])}):")
        self.depth = 1
        self.emit("A, S, tx, ty, tz, bx, by, bz = T")
        self.emit("q = 0")
        if function.waits:
            self.emit("if False: yield")  # a generator in any case
        scope = self.scopes[-1]
        for parameter in function.parameters:
            if not parameter.is_pointer:
                scope[parameter.name] = Variable(self.names[parameter.name][0], parameter.type)
        for parameter in pointers:
            scope[parameter.name] = self.pointer_parameter(function, parameter)
        for item in function.node.body.block_items or []:  # in the scope of the arguments, which no name may repeat
            self.statement(item)
        if function.result is not None:
            self.emit(f"NO_RESULT({self.line(function.node)}, {function.name!r})")

    def pointer_parameter(self, function: Function, parameter: Parameter):
        flags = {"const": parameter.const, "volatile": parameter.volatile}
        name, stem = parameter.name, f"P_{parameter.name}"
        root = Root("array", name, f"{stem}_d", f"{stem}_n", f"{stem}_m")
        pointer = Pointer(parameter.type, root, dims=parameter.dims, **flags)
        if function.is_kernel and name not in function.assigned:
            return pointer
        pair = pointer.pair if function.is_kernel else self.names[name][0]
        variable = self.pointed(self.python_name(name), pair, pointer, name)
        return variable if name in function.assigned else variable.pointer

    def add_shared(self, array: SharedArray) -> tuple[int, int]:
        """Gives the array its place; its number, and the number of its first element in the log."""
        fixed = [other for other in self.shared if not other.dynamic]
        end = max((other.offset + other.length * other.type.size for other in fixed), default=0)
        offset = 1 << 32 if array.dynamic else -(-end // 8) * 8  # the dynamic part begins where no other ends
        self.shared.append(replace(array, offset=offset))
        return len(self.shared) - 1, SHARED_BASE + offset // array.type.size

    # small things

    def is_shared_number(self, name: str) -> bool:
        symbol = self.find(name)
        return isinstance(symbol, Pointer) and symbol.root in self.shared_numbers

    def find(self, name: str):
        for scope in reversed(self.scopes):
            if name in scope:
                return scope[name]
        return self.globals.get(name) or CONSTANTS.get(name)

    def lookup(self, node) -> Value | Variable | Pointer | PointerVariable:
        found = self.find(node.name)
        if found is None:
            message = f"{node.name} is not declared: write its type where it first appears."
            if node.name in self.functions:
                message = f"{node.name} is a function: call it with (...)."
            elif node.name in ("threadIdx", "blockIdx", "blockDim", "gridDim"):
                message = f"{node.name} has three parts: write {node.name}.x, .y or .z."
            raise self.error("syntax", message, node)
        return found

    def variable_to_write(self, node) -> Variable:
        symbol = self.lookup(node)
        if isinstance(symbol, Variable) and not symbol.const:
            return symbol
        raise self.error("const", f"{node.name} is const: it keeps its first value.", node)

    def python_name(self, name: str) -> str:
        used = self.names.setdefault(name, [])
        used.append(f"v_{name}" + (f"_{len(used) + 1}_" if used else ""))
        return used[-1]

    def temporary(self) -> str:
        self.temporaries += 1
        return f"t{self.temporaries}"

    def emit(self, code: str) -> None:
        self.output.append((self.depth, code, self.current_line))

    def site(self, kind: str, node, name: str = "", size: int = 0, volatile: bool = False) -> Site:
        found = Site(len(self.sites), kind, self.line(node) or 0, name, size, volatile)
        self.sites.append(found)
        return found

    def mark(self, kind: str, node) -> None:
        """An entry in the log that orders what is before it and what is after it."""
        self.emit(f"A({self.site(kind, node).number << SITE_BITS})")

    def line(self, node) -> int | None:
        if node is not None and not isinstance(node, c_ast.FuncDef) and node.coord is None:
            return self.current_line
        coord = node.decl.coord if isinstance(node, c_ast.FuncDef) else node.coord
        return coord.line

    def error(self, kind: str, message: str, node) -> KernelError:
        return self.prepared.error(kind, message, self.line(node) or self.current_line)


def _is_void(node) -> bool:
    inner = getattr(getattr(node, "type", None), "type", None)
    return isinstance(node, c_ast.Typename) and getattr(inner, "names", None) == ["void"]


def _volatile(node):
    """The names that are declared volatile anywhere."""
    if isinstance(node, c_ast.Decl):
        inner = node.type
        while inner is not None and not isinstance(inner, (c_ast.TypeDecl, c_ast.FuncDecl)):
            inner = inner.type
        if isinstance(inner, c_ast.TypeDecl) and "volatile" in inner.quals:
            yield node.name
    for child in node or ():
        yield from _volatile(child)
