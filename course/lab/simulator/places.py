"""Reads and writes of memory: the Python for an element's bounds, its log entry and its value."""

from dataclasses import replace

from pycparser import c_ast

from .numbers_of_c import LONG, Scalar
from .values import Pointer, PointerVariable, Root, Value

SITE_BITS = 44  # the log holds site << SITE_BITS | element


class Places:
    """Part of the translator: pointers, indexes, loads and stores."""

    def pointer(self, node) -> Pointer | None:
        """What ``node`` points to; None if it is a number."""
        match node:
            case c_ast.ID():
                symbol = self.lookup(node)
                if isinstance(symbol, PointerVariable):
                    return symbol.pointer
                return symbol if isinstance(symbol, Pointer) and not self.is_shared_number(node.name) else None
            case c_ast.ArrayRef():
                outer = self.required_pointer(node.name)
                return self.indexed(outer, node.subscript) if outer.dims else None
            case c_ast.UnaryOp(op="&"):
                return self.address(node.expr)
            case c_ast.UnaryOp(op="*"):
                inner = self.pointer(node.expr)
                return self.indexed(inner, None) if inner is not None and inner.dims else None
            case c_ast.UnaryOp(op="++" | "--" | "p++" | "p--"):
                return self.stepped(node)
            case c_ast.BinaryOp(op="+" | "-"):
                return self.pointer_sum(node)
            case c_ast.TernaryOp():
                return self.chosen(node)
            case c_ast.Cast():
                return self.pointer_cast(node)
        return None

    def required_pointer(self, node) -> Pointer:
        found = self.pointer(node)
        if found is None:
            what = node.name if isinstance(node, c_ast.ID) else "this"
            raise self.error("syntax", f"{what} is a number, and only an array or a pointer has elements.", node)
        return found

    def pointed_at(self, node) -> Pointer:
        """What a * in front of ``node`` follows. Who comes from Python writes x ** 2, which C reads as x * (*2)."""
        if self.pointer(node) is None:
            message = "a * before a number wants a pointer. Is a power meant? C has no **: write x * x."
            raise self.error("syntax", message, node)
        return self.required_pointer(node)

    def pointer_sum(self, node) -> Pointer | None:
        left, right = self.pointer(node.left), None
        if left is None and node.op == "+":
            right = self.pointer(node.right)
        if left is None and right is None:
            return None
        base, by = (left, node.right) if left is not None else (right, node.left)
        if left is not None and self.pointer(node.right) is not None:
            return None  # a distance: a number
        distance = self.scaled(base, self.integer(by).code)
        return base.moved(f"-({distance})" if node.op == "-" else distance)

    def scaled(self, pointer: Pointer, code: str) -> str:
        count = 1
        for size in pointer.dims:
            count *= size
        return code if count == 1 else f"{code} * {count}"

    def chosen(self, node) -> Pointer | None:
        yes, no = self.pointer(node.iftrue), self.pointer(node.iffalse)
        if yes is None or no is None:
            return None
        code = f"({yes.pair} if {self.condition(node.cond)} else {no.pair})"
        const, volatile = yes.const or no.const, yes.volatile or no.volatile
        return Pointer(yes.scalar, None, code, yes.dims, const=const, volatile=volatile)

    def pointer_cast(self, node) -> Pointer | None:
        inner = self.pointer(node.expr)
        if inner is None:
            return None
        declared = self.declared_type(node.to_type)
        if not isinstance(declared, Pointer) or declared.scalar != inner.scalar:
            message = "a pointer is not turned into one of another type here: each array keeps its own type."
            raise self.error("unsupported", message, node)
        return replace(inner, const=declared.const, volatile=declared.volatile, dims=declared.dims)

    def address(self, node) -> Pointer:
        if isinstance(node, c_ast.ID):
            symbol = self.lookup(node)
            if isinstance(symbol, Pointer) and self.is_shared_number(node.name):
                return replace(symbol, limit=None)
            message = f"the address of {node.name} is not to be had here: only arrays and shared memory have one."
            raise self.error("unsupported", message, node)
        if isinstance(node, c_ast.UnaryOp) and node.op == "*":
            return self.pointed_at(node.expr)
        if isinstance(node, c_ast.ArrayRef):
            base = self.required_pointer(node.name)
            offset = self.scaled(base, self.integer(node.subscript).code)
            moved = base.moved(offset)
            return replace(moved, dims=base.dims)
        raise self.error("unsupported", "this has no address: only elements of arrays have one.", node)

    def stepped(self, node) -> Pointer | None:
        if not isinstance(node.expr, c_ast.ID) or not isinstance(self.lookup(node.expr), PointerVariable):
            return None
        variable = self.lookup(node.expr)
        name = variable.pointer.offset
        step = self.scaled(variable.pointer, "1")
        sign, back = ("+", "-") if "++" in node.op else ("-", "+")
        code = f"({name} := {name} {sign} {step})"
        return replace(variable.pointer, offset=f"({code} {back} {step})" if node.op[0] == "p" else code)

    def indexed(self, pointer: Pointer, subscript) -> Pointer:
        """``pointer[subscript]``, a row or an element, with the checks that its index needs."""
        index = Value("0", LONG, 0, 0) if subscript is None else self.integer(subscript)
        code, checks, known = index.code, pointer.checks, pointer.limit is not None
        if pointer.root is None:
            return replace(pointer.moved(self.scaled(pointer, code)), dims=pointer.dims[1:])
        if known and not (0 <= index.low and index.high < pointer.limit):
            code = self.temporary()
            checks = (*checks, f"(0 <= ({code} := {index.code}) < {pointer.limit})")
        scaled = self.scaled(pointer, code)
        return replace(
            pointer,
            offset=scaled if pointer.offset == "0" else f"{pointer.offset} + {scaled}",
            dims=pointer.dims[1:],
            limit=pointer.dims[0] if pointer.dims else None,
            checks=checks,
            indexes=(*pointer.indexes, code) if known else pointer.indexes,
            is_checked=known and (not pointer.indexes or pointer.is_checked),
        )

    def element(self, node) -> Pointer | None:
        """The memory that ``node`` names, one number; None if it names a variable or nothing in memory."""
        match node:
            case c_ast.ID():
                symbol = self.lookup(node)
                if isinstance(symbol, Pointer) and self.is_shared_number(node.name):
                    return self.indexed(symbol, None)
            case c_ast.ArrayRef():
                base = self.required_pointer(node.name)
                return None if base.dims else self.indexed(base, node.subscript)
            case c_ast.UnaryOp(op="*"):
                base = self.pointed_at(node.expr)
                return None if base.dims else self.indexed(base, None)
        return None

    def access(self, place: Pointer, kinds: tuple[str, ...], node) -> tuple[str, str, str, str]:
        """Conditions that hold inside the memory (each logs), the element's index, its data, and the complaint."""
        root = place.root
        index = self.temporary()
        conditions, assigned = [], f"({index} := {place.offset})"
        if place.checks:
            conditions.append(" & ".join(place.checks))
        if not place.is_checked:
            conditions.append(f"0 <= {assigned} < {root.length}")
            assigned = index
        sites = [self.site(kind, node, root.name, place.scalar.size, place.volatile).number for kind in kinds]
        if root.is_logged:
            for site in sites:
                conditions.append(f"not A({self.logged(site, root)} + {assigned})")
                assigned = index
        if assigned != index:
            conditions.append(f"{assigned} >= 0")
        indexes = f", ({', '.join(place.indexes)})" if len(place.indexes) > 1 else ""
        where = place.offset if place.checks or place.is_checked else index
        return " and ".join(conditions), index, root.data, f"({sites[0]}, {root.memory}, {where}{indexes})"

    def logged(self, site: int, root: Root) -> str:
        """What is added to the index to make the log's entry: known per launch for a kernel's own array."""
        if root.kind == "array":
            self.launch_constants[f"K{site}"] = (site, root.name)
            return f"K{site}"
        if root.base is not None:
            return str((site << SITE_BITS) + root.base)
        return f"{site << SITE_BITS} + {root.memory}.base"

    def load(self, place: Pointer, node) -> Value:
        if place.root is None:
            site = self.site("load", node, "", place.scalar.size, place.volatile)
            return Value(f"LOAD({site.number}, A, {place.offset})", place.scalar)
        conditions, index, data, complaint = self.access(place, ("load",), node)
        if not place.root.may_be_unset:
            return Value(f"({data}[{index}] if {conditions} else BAD{complaint})", place.scalar)
        found = self.temporary()
        conditions += f" and ({found} := {data}[{index}]) is not None"
        return Value(f"({found} if {conditions} else BAD{complaint})", place.scalar)

    def refuse_const(self, place: Pointer, node) -> None:
        if place.const:
            name = place.root.name if place.root else "this"
            message = f"{name} is const, which says that the kernel only reads it, and here it is written."
            raise self.error("const", message, node)

    def write(self, place: Pointer, value: Value, node) -> None:
        """The statement ``place = value``."""
        self.refuse_const(place, node)
        code = self.stored(value, place.scalar, place.root)
        if place.root is None:
            site = self.site("store", node, "", place.scalar.size, place.volatile)
            self.emit(f"STORE({site.number}, A, {place.offset}, {code})")
            return
        if "yield" in code or "LOAD" in code:  # whatever happens in there happens before the write
            before = self.temporary()
            self.emit(f"{before} = {code}")
            code = before
        conditions, index, data, complaint = self.access(place, ("store",), node)
        self.emit(f"if {conditions}: {data}[{index}] = {code}")
        self.emit(f"else: BAD{complaint}")

    def stored(self, value: Value, to: Scalar, root: Root | None) -> str:
        """The value as it is stored; an array of float32 rounds by itself."""
        code = self.convert(value, to).code
        if root is not None and root.kind == "array" and to.name == "float" and code.startswith("R("):
            return code[1:] if value.type.is_float else code
        return code

    def update(self, place: Pointer, change, node) -> None:
        """The statement ``place = change(place)``, with its index worked out once."""
        self.refuse_const(place, node)
        if place.root is None:
            pair = self.temporary()
            self.emit(f"{pair} = {place.offset}")
            place = replace(place, offset=pair)
            self.write(place, change(self.load(place, node)), node)
            return
        old = self.temporary()
        changed = self.stored(change(Value(old, place.scalar)), place.scalar, place.root)
        if "yield" in changed:
            raise self.error("unsupported", "a shuffle inside of += on memory: put it into a variable first.", node)
        kinds = ("load",) if place.root.may_be_unset else ("load", "store")
        conditions, index, data, complaint = self.access(place, kinds, node)
        if place.root.may_be_unset:
            conditions += f" and ({old} := {data}[{index}]) is not None"
            if place.root.is_logged:  # the write happens only then
                site = self.site("store", node, place.root.name, place.scalar.size, place.volatile).number
                conditions += f" and not A({self.logged(site, place.root)} + {index})"
            self.emit(f"if {conditions}: {data}[{index}] = {changed}")
        else:
            self.emit(f"if {conditions}: {old} = {data}[{index}]; {data}[{index}] = {changed}")
        self.emit(f"else: BAD{complaint}")

    def pointed(self, prefix: str, pair: str, like: Pointer, name: str) -> PointerVariable:
        """Emits the names of a pointer that is known when the kernel runs."""
        self.point(prefix, pair)
        root = Root("any", name, f"{prefix}_d", f"{prefix}_n", f"{prefix}_m")
        pointer = Pointer(like.scalar, root, f"{prefix}_o", like.dims, const=like.const, volatile=like.volatile)
        return PointerVariable(pointer, prefix)

    def point(self, prefix: str, pair: str) -> None:
        self.emit(f"{prefix}_m, {prefix}_o = {pair}")
        self.emit(f"{prefix}_d = {prefix}_m.data; {prefix}_n = {prefix}_m.length")
