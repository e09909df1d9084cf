"""Loops. One that plainly counts becomes Python's own range; every round of another counts against the limit."""

from pycparser import c_ast

from .numbers_of_c import common
from .values import Value, Variable


class Loops:
    """Part of the translator: for, while and do."""

    def do_While(self, node) -> None:
        self.general_loop(node, node.cond, node.stmt, None)

    def do_DoWhile(self, node) -> None:
        spins = self.is_synchronising(node)
        self.emit("while True:")
        self.depth += 1
        self.count_round(node, spins)

        def again():
            start, test = len(self.output), self.condition(node.cond)
            if self.flops:
                self.insert_flops(start, node)
            self.emit(f"if not {test}: break")

        self.loops.append(again)
        self.depth -= 1
        self.block(node.stmt)
        self.depth += 1
        again()
        self.loops.pop()
        self.depth -= 1
        if spins:
            self.mark("acquire", node)

    def do_For(self, node) -> None:
        self.scopes.append({})
        if not self.counting_loop(node):
            self.statement(node.init)
            self.general_loop(node, node.cond, node.stmt, node.next)
        self.scopes.pop()

    def general_loop(self, node, condition, body, after) -> None:
        spins = self.is_synchronising(node)
        self.emit("while True:")
        self.depth += 1
        self.count_round(node, spins)
        if condition is not None:
            start = len(self.output)
            test = self.condition(condition)
            if self.flops:
                self.insert_flops(start, node)
            self.emit(f"if not {test}: break")
        self.depth -= 1
        self.loops.append(lambda: self.statement(after))
        self.block(body)
        self.depth += 1
        self.statement(after)
        self.depth -= 1
        self.loops.pop()
        if spins:
            self.mark("acquire", node)

    def count_round(self, node, spins: bool) -> None:
        self.emit("q += 1")
        self.emit(f"if q > LIMIT: ENDLESS({self.line(node)})")
        if spins:
            self.emit(f"yield (SPIN, {self.line(node)})")

    def counting_loop(self, node) -> bool:
        """for (int k = a; k < b; k += c) with nothing in it that changes k, b or c. False if it is no such loop."""
        parts = self.counting_parts(node)
        if parts is None:
            return False
        declaration, op, bound_node, step_node = parts
        start = len(self.output)
        declared = self.declared_type(declaration)
        first = self.convert(self.value(declaration.init), declared)
        bound = self.value(bound_node)
        step = Value("1", declared, 1, 1) if step_node is None else self.value(step_node)
        is_memory = "A(" in bound.code + step.code  # it may change from round to round
        if is_memory or not self.counts_alike(declared, first, bound, step, op):
            del self.output[start:]
            self.flops = 0
            return False
        down = op[0] == ">"
        name = self.python_name(declaration.name)
        last = bound.code if len(op) == 1 else f"{bound.code} {'-' if down else '+'} 1"
        by = f"-{step.code}" if down else step.code
        if step.constant is None:
            by = f"STEP({by}, {self.line(node)})"
        rounds = self.temporary()
        self.emit(f"{rounds} = range({first.code}, {last}, {by})")
        self.emit(f"q += len({rounds})")
        self.emit(f"if q > LIMIT: ENDLESS({self.line(node)})")
        self.emit(f"for {name} in {rounds}:")
        low, high = (bound.low, first.high) if down else (first.low, bound.high - (len(op) == 1))
        low, high = max(low, declared.low), min(high, declared.high)
        if low > high:
            low = high = None
        self.scopes[-1][declaration.name] = Variable(name, declared, False, False, low, high)
        self.loops.append(lambda: None)
        self.block(node.stmt)
        self.loops.pop()
        return True

    def counting_parts(self, node):
        init, test, after = node.init, node.cond, node.next
        if not (isinstance(init, c_ast.DeclList) and len(init.decls) == 1 and init.decls[0].init is not None):
            return None
        name = init.decls[0].name
        written = names_written(node.stmt)
        if not isinstance(test, c_ast.BinaryOp) or test.op not in ("<", "<=", ">", ">="):
            return None
        if not _is(test.left, name) or name in written or has_break(node.stmt) and self.is_synchronising(node):
            return None
        is_down, step = test.op[0] == ">", None
        if isinstance(after, c_ast.UnaryOp) and _is(after.expr, name):
            if after.op not in (("--", "p--") if is_down else ("++", "p++")):
                return None
        elif isinstance(after, c_ast.Assignment) and _is(after.lvalue, name):
            if after.op != ("-=" if is_down else "+="):
                return None
            step = after.rvalue
        else:
            return None
        for part in (test.right, step):
            if part is not None and not _is_steady(part, {*written, name}):
                return None
        return init.decls[0], test.op, test.right, step

    def counts_alike(self, declared, first: Value, bound: Value, step: Value, op: str) -> bool:
        """Whether Python's unlimited integers count as C's would."""
        if declared.is_float or bound.type.is_float or step.type.is_float or declared.size < 4:
            return False
        if op[0] == ">" and declared.kind != "i":
            return False  # an unsigned number never falls below 0
        if step.constant is not None and step.constant <= 0:
            return False
        compared = common(declared, bound.type)
        return compared.kind == "i" or first.low >= 0 and bound.low >= 0 and op[0] == "<"


def _is(node, name: str) -> bool:
    return isinstance(node, c_ast.ID) and node.name == name


def _is_steady(node, written: set[str]) -> bool:
    """Whether ``node`` has the same value in every round."""
    if isinstance(node, c_ast.ID):
        return node.name not in written
    if isinstance(node, c_ast.StructRef):
        return True
    if isinstance(node, c_ast.BinaryOp):
        return _is_steady(node.left, written) and _is_steady(node.right, written)
    if isinstance(node, c_ast.Cast):
        return _is_steady(node.expr, written)
    return isinstance(node, c_ast.Constant)


def names_written(node) -> set[str]:
    """The variables that are assigned to anywhere in ``node``."""
    found = set()
    if isinstance(node, c_ast.Assignment) and isinstance(node.lvalue, c_ast.ID):
        found.add(node.lvalue.name)
    if isinstance(node, c_ast.UnaryOp) and node.op in ("++", "--", "p++", "p--") and isinstance(node.expr, c_ast.ID):
        found.add(node.expr.name)
    for child in node or ():
        found |= names_written(child)
    return found


def called(node) -> set[str]:
    """The functions that are called anywhere in ``node``."""
    found = set()
    if isinstance(node, c_ast.FuncCall) and isinstance(node.name, c_ast.ID):
        found.add(node.name.name)
    for child in node or ():
        found |= called(child)
    return found


def has_break(node) -> bool:
    return isinstance(node, (c_ast.Break, c_ast.Return)) or any(has_break(child) for child in node or ())


def loops(node):
    """All loops in ``node``, itself included."""
    if isinstance(node, (c_ast.For, c_ast.While, c_ast.DoWhile)):
        yield node
    for child in node or ():
        yield from loops(child)
