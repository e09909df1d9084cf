"""Statements: declarations, branches and loops."""

from pycparser import c_ast

from .numbers_of_c import INT
from .values import Pointer, PointerVariable, Root, SharedArray, Value, Variable

WRITES = ("++", "--", "p++", "p--")


class Statements:
    """Part of the translator: what a function's body consists of."""

    def statement(self, node) -> None:
        if node is None or isinstance(node, (c_ast.EmptyStatement, c_ast.Pragma)):
            return
        method = getattr(self, f"do_{type(node).__name__}", None)
        if method is None:
            raise self.error("unsupported", f"{type(node).__name__} is more than the simulator knows.", node)
        self.current_line = self.line(node) or self.current_line
        start = len(self.output)
        method(node)
        if self.flops and not isinstance(node, (c_ast.Compound, c_ast.If, c_ast.For, c_ast.While, c_ast.DoWhile)):
            self.insert_flops(start, node)

    def insert_flops(self, start: int, node) -> None:
        site = self.site("flops", node)
        self.output.insert(start, (self.depth, f"A({(site.number << 44) + self.flops})", self.line(node)))
        self.flops = 0

    def block(self, node) -> None:
        """The body of a branch or a loop, one level deeper."""
        self.depth += 1
        start = len(self.output)
        self.statement(node)
        if len(self.output) == start:
            self.emit("pass")
        self.depth -= 1

    def do_Compound(self, node) -> None:
        self.scopes.append({})
        for item in node.block_items or []:
            self.statement(item)
        self.scopes.pop()

    def do_DeclList(self, node) -> None:
        for declaration in node.decls:
            self.statement(declaration)

    def do_Decl(self, node) -> None:
        if node.name in self.scopes[-1]:
            raise self.error("syntax", f"{node.name} is declared twice: the second time without its type.", node)
        declared = self.declared_type(node)
        is_array = isinstance(node.type, c_ast.ArrayDecl)
        if "static" in node.storage or "extern" in node.storage:
            self.declare_shared(node, declared, is_array)
        elif is_array:
            self.declare_array(node, declared)
        elif isinstance(declared, Pointer):
            self.declare_pointer(node, declared)
        else:
            self.declare_number(node, declared)

    def declare_number(self, node, to) -> None:
        const = "const" in node.quals
        name = self.python_name(node.name)
        if node.init is None:
            self.emit(f"{name} = None")
            self.scopes[-1][node.name] = Variable(name, to, const, may_be_unset=True)
            return
        if isinstance(node.init, c_ast.InitList):
            raise self.error("syntax", f"{node.name} is one number, and {{...}} is for arrays.", node)
        value = self.convert(self.value(node.init), to)
        if node.name not in self.function.assigned and value.constant is not None:
            self.scopes[-1][node.name] = value  # a name for a constant
            return
        self.emit(f"{name} = {value.code}")
        bounds = (None, None) if node.name in self.function.assigned else (value.low, value.high)
        self.scopes[-1][node.name] = Variable(name, to, const, False, *bounds)

    def declare_array(self, node, declared: Pointer) -> None:
        sizes = (declared.limit, *declared.dims)
        length = 1
        for size in sizes:
            length *= size
        name = self.python_name(node.name)
        self.emit(f"{name}_m = LOCAL({node.name!r}, {length}, {sizes}, {declared.scalar.dtype!r})")
        self.emit(f"{name} = {name}_m.data")
        root = Root("local", node.name, name, str(length), f"{name}_m")
        self.scopes[-1][node.name] = _with_root(declared, root)
        if node.init is not None:
            self.fill_array(node, name, length, declared)

    def fill_array(self, node, name: str, length: int, declared: Pointer) -> None:
        if not isinstance(node.init, c_ast.InitList) or declared.dims:
            raise self.error("unsupported", "an array begins with {a, b, c}, and one with rows is filled later.", node)
        values = [self.convert(self.value(part), declared.scalar).code for part in node.init.exprs]
        if len(values) > length:
            message = f"{node.name} has {length} elements and gets {len(values)} values."
            raise self.error("syntax", message, node)
        rest = length - len(values)  # C fills up with zeros
        zero = "0.0" if declared.scalar.is_float else "0"
        self.emit(f"{name}[:] = [{', '.join(values)}{', ' if values else ''}] + [{zero}] * {rest}")

    def declare_shared(self, node, declared, is_array: bool) -> None:
        if node.init is not None:
            message = "shared memory has no first value: let a thread write it, then __syncthreads()."
            raise self.error("syntax", message, node)
        dynamic = "extern" in node.storage
        if isinstance(declared, Pointer) and not is_array:
            raise self.error("unsupported", "a pointer in shared memory is more than the simulator knows.", node)
        if dynamic and not is_array:
            raise self.error("syntax", "extern __shared__ is written with empty brackets: float buffer[].", node)
        scalar = declared.scalar if is_array else declared
        dims = (() if dynamic else (declared.limit, *declared.dims)) if is_array else ()
        number, base = self.add_shared(SharedArray(node.name, scalar, dims, 0, dynamic))
        name = self.python_name(node.name)
        self.emit(f"{name}_m = S[{number}]; {name} = {name}_m.data")
        length = f"{name}_m.length" if dynamic else str(SharedArray("", scalar, dims, 0).length)
        root = Root("shared", node.name, name, length, f"{name}_m", base)
        pointer = declared if is_array else Pointer(scalar, None, limit=1)
        volatile = "volatile" in node.quals
        self.scopes[-1][node.name] = _with_root(pointer, root, volatile)
        if not is_array:
            self.shared_numbers.add(root)

    def declare_pointer(self, node, declared: Pointer) -> None:
        name = self.python_name(node.name)
        if node.init is None:
            variable = self.pointed(name, f"(NOWHERE({node.name!r}), 0)", declared, node.name)
            self.scopes[-1][node.name] = variable
            return
        start = self.required_pointer(node.init)
        self.refuse_assignment(declared, start, node)
        if node.name in self.function.assigned or start.root is None:
            self.scopes[-1][node.name] = self.pointed(name, start.pair, declared, node.name)
            return
        self.emit(f"{name} = {start.offset}")
        flags = {"const": declared.const, "volatile": declared.volatile}
        self.scopes[-1][node.name] = Pointer(declared.scalar, start.root, name, declared.dims, **flags)

    def refuse_assignment(self, to: Pointer, start: Pointer, node) -> None:
        if to.scalar != start.scalar or to.dims != start.dims:
            message = f"a {to.scalar}* cannot point to {start.scalar}: the types must agree."
            raise self.error("syntax", message, node)
        if start.const and not to.const:
            raise self.error("const", f"it leads to const memory: write const {to.scalar}*.", node)

    def do_Assignment(self, node) -> None:
        target = node.lvalue
        if isinstance(target, c_ast.ID):
            symbol = self.lookup(target)
            if isinstance(symbol, PointerVariable):
                self.assign_pointer(symbol, node)
                return
            if isinstance(symbol, Variable):
                self.variable_to_write(target)
                self.emit(f"{symbol.name} = {self.assigned_value(node).code}")
                return
        place = self.element(target)
        if place is None:
            what = f"{target.name} is" if isinstance(target, c_ast.ID) else "this is"
            raise self.error("syntax", f"{what} nothing that a value can be written to.", node)
        if node.op == "=":
            self.write(place, self.value(node.rvalue), node)
            return
        right = self.value(node.rvalue)
        self.update(place, lambda old: self.combined(node.op[:-1], old, right, node), node)

    def assign_pointer(self, variable: PointerVariable, node) -> None:
        if node.op in ("+=", "-="):
            distance = self.scaled(variable.pointer, self.integer(node.rvalue).code)
            self.emit(f"{variable.pointer.offset} {node.op} {distance}")
            return
        target = self.required_pointer(node.rvalue)
        self.refuse_assignment(variable.pointer, target, node)
        self.point(variable.prefix, target.pair)

    def do_UnaryOp(self, node) -> None:
        if node.op not in WRITES:
            self.emit(self.value(node).code)
            return
        moved = self.stepped(node)
        if moved is not None:
            self.emit(moved.offset)
            return
        place = self.element(node.expr)
        if place is None:
            code = self.step(c_ast.UnaryOp(node.op.removeprefix("p"), node.expr, node.coord)).code
            self.emit(code)
            return
        one = Value("1", INT, 1, 1)
        self.update(place, lambda old: self.combined(node.op[-1], old, one, node), node)

    def do_FuncCall(self, node) -> None:
        self.call_statement(node)

    def do_ExprList(self, node) -> None:
        for part in node.exprs:
            self.statement(part)

    def do_Cast(self, node) -> None:
        if isinstance(node.to_type.type.type, c_ast.IdentifierType) and node.to_type.type.type.names == ["void"]:
            return
        self.emit(self.value(node).code)

    def do_expression(self, node) -> None:
        self.emit(self.value(node).code)

    do_BinaryOp = do_TernaryOp = do_ID = do_Constant = do_ArrayRef = do_StructRef = do_expression

    def do_Return(self, node) -> None:
        result = self.function.result
        if node.expr is None or result is None:
            if (node.expr is None) != (result is None):
                wanted = "nothing" if result is None else f"a {result}"
                raise self.error("syntax", f"{self.function.name} returns {wanted}.", node)
            self.emit("return")
            return
        self.emit(f"return {self.convert(self.value(node.expr), result).code}")

    def do_If(self, node) -> None:
        start = len(self.output)
        test = self.condition(node.cond)
        if self.flops:
            self.insert_flops(start, node)
        self.emit(f"if {test}:")
        self.block(node.iftrue)
        if node.iffalse is not None:
            self.emit("else:")
            self.block(node.iffalse)

    def do_Break(self, node) -> None:
        self.emit("break")

    def do_Continue(self, node) -> None:
        if self.loops:
            self.loops[-1]()  # what C does between two rounds
        self.emit("continue")


def _with_root(pointer: Pointer, root: Root, volatile: bool = False) -> Pointer:
    flags = {"const": pointer.const, "volatile": pointer.volatile or volatile}
    return Pointer(pointer.scalar, root, "0", pointer.dims, pointer.limit, **flags)
