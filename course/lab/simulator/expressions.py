"""Numbers: every C expression as a Python one that gives the same bits."""

import re

from pycparser import c_ast

from . import builtins
from .numbers_of_c import (
    BOOL,
    DOUBLE,
    FLOAT,
    INT,
    LONG,
    UINT,
    ULONG,
    Scalar,
    common,
    promoted,
)
from .values import Pointer, PointerVariable, Value, Variable

GEOMETRY = {  # CUDA's own variables: the Python name and the largest value
    "threadIdx": {"x": ("tx", 1023), "y": ("ty", 1023), "z": ("tz", 63)},
    "blockIdx": {"x": ("bx", 2**31 - 2), "y": ("by", 65534), "z": ("bz", 65534)},
    "blockDim": {"x": ("BDX", 1024), "y": ("BDY", 1024), "z": ("BDZ", 64)},
    "gridDim": {"x": ("GDX", 2**31 - 1), "y": ("GDY", 65535), "z": ("GDZ", 65535)},
}
CONSTANTS = {
    "true": Value("1", BOOL, 1, 1),
    "false": Value("0", BOOL, 0, 0),
    "warpSize": Value("32", INT, 32, 32),
    "INFINITY": Value("INFINITY", FLOAT),
    "NAN": Value("NAN", FLOAT),
    "FLT_MAX": Value("3.4028234663852886e+38", FLOAT),
    "FLT_EPSILON": Value("1.1920928955078125e-07", FLOAT),
    "INT_MAX": Value("2147483647", INT, 2**31 - 1, 2**31 - 1),
    "INT_MIN": Value("(-2147483648)", INT, -(2**31), -(2**31)),
    "M_PI": Value("3.141592653589793", DOUBLE),
}


class Expressions:
    """Part of the translator: values of expressions, conversions and operators."""

    def value(self, node) -> Value:
        method = getattr(self, f"value_{type(node).__name__}", None)
        if method is None:
            raise self.error("unsupported", f"{type(node).__name__} is more than the simulator knows.", node)
        return method(node)

    def integer(self, node) -> Value:
        found = self.value(node)
        if found.type.is_float:
            raise self.error("syntax", f"an index must be an integer, and this is a {found.type}.", node)
        return found

    def condition(self, node) -> str:
        """Python that is true where C's would be: no need for a 1 or 0."""
        match node:
            case c_ast.Assignment(op="="):
                raise self.error("syntax", "= sets a number here. Two are compared with ==.", node)
            case c_ast.BinaryOp(op="&&" | "||"):
                word = "and" if node.op == "&&" else "or"
                return f"({self.condition(node.left)} {word} {self.condition(node.right)})"
            case c_ast.UnaryOp(op="!"):
                return f"(not {self.condition(node.expr)})"
        return self.value(node).code

    def value_Constant(self, node) -> Value:
        text = node.value
        if node.type in ("float", "double", "long double"):
            is_float = text[-1] in "fF"
            number = float.fromhex(text.rstrip("fF")) if text[:2].lower() == "0x" else float(text.rstrip("fFlL"))
            return self.rounded_constant(number) if is_float else Value(repr(number), DOUBLE)
        if "char" in node.type:
            raise self.error("unsupported", "letters in quotes are more than the simulator knows.", node)
        suffix = re.search(r"[uUlL]*$", text)[0].lower()
        digits = text[: len(text) - len(suffix)]
        number = int(digits, 8) if re.fullmatch(r"0[0-7]+", digits) else int(digits, 0)
        candidates = [INT, UINT, LONG, ULONG]
        if "u" in suffix:
            candidates = [UINT, ULONG]
        elif digits.isdigit() and digits[0] != "0":
            candidates = [INT, LONG]
        if "l" in suffix:
            candidates = [kind for kind in candidates if kind.size == 8]
        for kind in candidates:
            if number <= kind.high:
                return Value(str(number), kind, number, number)
        raise self.error("syntax", f"{text} is larger than any integer type.", node)

    def rounded_constant(self, number: float) -> Value:
        rounded = self.round_float(number)
        return Value("INFINITY" if rounded == float("inf") else repr(rounded), FLOAT)

    def value_ID(self, node) -> Value:
        symbol = self.lookup(node)
        if isinstance(symbol, Value):
            return symbol
        if isinstance(symbol, Variable):
            code = symbol.name
            if symbol.may_be_unset:
                code = f"({code} if {code} is not None else UNSET({self.line(node)}, {node.name!r}))"
            return Value(code, symbol.type, symbol.low, symbol.high)
        if self.is_shared_number(node.name):
            return self.load(self.element(node), node)
        raise self.error("syntax", f"{node.name} is an array, and a number is needed here: {node.name}[...].", node)

    def value_StructRef(self, node) -> Value:
        if isinstance(node.name, c_ast.ID) and node.name.name in GEOMETRY and node.type == ".":
            found = GEOMETRY[node.name.name].get(node.field.name)
            if found is not None:
                low = 0 if node.name.name.endswith("Idx") else 1
                return Value(found[0], UINT, low, found[1])
        raise self.error("unsupported", "only threadIdx, blockIdx, blockDim and gridDim have .x, .y and .z.", node)

    def value_ArrayRef(self, node) -> Value:
        place = self.element(node)
        if place is None:
            raise self.error("syntax", "this is a row of an array, and a number is needed: one more [index].", node)
        return self.load(place, node)

    def value_TernaryOp(self, node) -> Value:
        test, yes, no = self.condition(node.cond), self.value(node.iftrue), self.value(node.iffalse)
        to = yes.type if yes.type == no.type else common(yes.type, no.type)
        yes, no = self.convert(yes, to), self.convert(no, to)
        bounds = () if to.is_float else (min(yes.low, no.low), max(yes.high, no.high))
        return Value(f"({yes.code} if {test} else {no.code})", to, *bounds)

    def value_ExprList(self, node) -> Value:
        values = [self.value(part) for part in node.exprs]
        return Value(f"({', '.join(value.code for value in values)})[-1]", values[-1].type)

    def value_Cast(self, node) -> Value:
        to = self.declared_type(node.to_type)
        if isinstance(to, Pointer):
            raise self.error("unsupported", "a pointer is not a number here.", node)
        return self.convert(self.value(node.expr), to)

    def value_UnaryOp(self, node) -> Value:
        match node.op:
            case "sizeof":
                return self.size_of(node)
            case "*":
                place = self.element(node)
                if place is None:
                    raise self.error("syntax", "this is a row of an array, and a number is needed.", node)
                return self.load(place, node)
            case "++" | "--" | "p++" | "p--":
                return self.step(node)
            case "!":
                return Value(f"(not {self.condition(node.expr)})", BOOL)
            case "&":
                raise self.error("syntax", "an address stands where a number is needed.", node)
        inner = self.value(node.expr)
        inner = self.convert(inner, promoted(inner.type))
        if node.op == "+":
            return inner
        if inner.type.is_float:
            if node.op == "~":
                raise self.error("syntax", "~ is for integers only.", node)
            return Value(f"(-{inner.code})", inner.type)
        if node.op == "-":
            return self.wrapped(f"-{inner.code}", inner.type, -inner.high, -inner.low)
        return self.wrapped(f"-1 - {inner.code}", inner.type, ~inner.high, ~inner.low)

    def size_of(self, node) -> Value:
        target = node.expr
        declared = self.declared_type(target) if isinstance(target, c_ast.Typename) else self.value(target).type
        size = 8 if isinstance(declared, Pointer) else declared.size
        return Value(str(size), ULONG, size, size)

    def value_BinaryOp(self, node) -> Value:
        op = node.op
        if op in ("&&", "||"):
            return Value(f"(True if {self.condition(node)} else False)", BOOL)
        if self.pointer(node.left) is not None or self.pointer(node.right) is not None:
            raise self.error("unsupported", f"pointers are not put together with {op} here: use indexes.", node)
        left, right = self.value(node.left), self.value(node.right)
        if op in ("<<", ">>"):
            return self.shift(op, left, right, node)
        to = common(left.type, right.type)
        return self.binary(op, self.convert(left, to), self.convert(right, to), to, node)

    def binary(self, op: str, left: Value, right: Value, to: Scalar, node) -> Value:
        """Both sides are of type ``to`` already."""
        if op in ("<", ">", "<=", ">=", "==", "!="):
            return Value(f"({left.code} {op} {right.code})", BOOL)
        if to.is_float:
            if op not in "+-*/":
                hint = {"%": ": use fmodf for a remainder", "^": ", and no power: write x * x"}.get(op, "")
                raise self.error("syntax", f"{op} is for integers only{hint}.", node)
            self.flops += 1
            code = f"{left.code} {op} {right.code}"
            if op == "/" and not _is_nonzero(right.code):
                code = f"FDIV({left.code}, {right.code})"
            return Value(f"R({code})" if to == FLOAT else f"({code})", to)
        if op in "/%":
            return self.divide(op, left, right, to, node)
        low, high = _interval(op, left, right)
        return self.wrapped(f"{left.code} {op} {right.code}", to, low, high)

    def divide(self, op: str, left: Value, right: Value, to: Scalar, node) -> Value:
        if left.low >= 0 and right.low > 0:
            high = left.high // right.low if op == "/" else min(left.high, right.high - 1)
            return Value(f"({left.code} {'//' if op == '/' else '%'} {right.code})", to, 0, high)
        helper = "IDIV" if op == "/" else "IREM"
        code = f"{helper}({left.code}, {right.code}, {self.line(node)})"
        if left.low >= 0 and right.low >= 0:
            return Value(code, to, 0, left.high)
        return self.wrapped(code, to, -max(-left.low, left.high), max(-left.low, left.high))

    def shift(self, op: str, left: Value, right: Value, node) -> Value:
        if left.type.is_float or right.type.is_float:
            raise self.error("syntax", f"{op} is for integers only.", node)
        to = promoted(left.type)
        if right.constant is None or not 0 <= right.constant < 8 * to.size:
            right = Value(f"SHIFT({right.code}, {8 * to.size}, {self.line(node)})", INT, 0, 8 * to.size - 1)
        if op == ">>":
            return Value(f"({left.code} >> {right.code})", to, min(left.low, 0), max(left.high, 0))
        bounds = (left.low << right.high, left.high << right.high) if left.low >= 0 else (None, None)
        return self.wrapped(f"{left.code} << {right.code}", to, 0 if left.low >= 0 else None, bounds[1])

    def wrapped(self, code: str, to: Scalar, low: int | None, high: int | None) -> Value:
        """``code``, brought back into the range of ``to`` unless it is known to stay there."""
        if low is not None and to.low <= low and high <= to.high:
            return Value(f"({code})", to, low, high)
        mask = (1 << 8 * to.size) - 1
        if to.kind == "i":
            half = mask // 2 + 1
            return Value(f"((({code}) + {half} & {mask}) - {half})", to)
        return Value(f"(({code}) & {mask})", to)

    def convert(self, value: Value, to: Scalar) -> Value:
        source = value.type
        if source == to:
            return value
        if to == BOOL:
            return Value(f"({value.code} != 0)", BOOL)
        if to.is_float:
            return self.to_float(value, to)
        if source.is_float:
            return Value(f"TRUNCATE({value.code}, {to.low}, {to.high})", to)
        return self.wrapped(value.code, to, value.low, value.high)

    def to_float(self, value: Value, to: Scalar) -> Value:
        if value.constant is not None:
            number = float(value.constant)
            return self.rounded_constant(number) if to == FLOAT else Value(repr(number), DOUBLE)
        if value.type.is_float:
            if to == DOUBLE:
                return Value(value.code, DOUBLE)
            if re.fullmatch(r"-?[\d.]+(e-?\d+)?", value.code):
                return self.rounded_constant(float(value.code))
            return Value(f"R({value.code})", FLOAT)
        return Value(f"R({value.code})" if to == FLOAT else f"float({value.code})", to)

    def step(self, node) -> Value:
        """++i, i--, also on memory."""
        sign, post = node.op[-1], node.op[0] == "p"
        if not isinstance(node.expr, c_ast.ID) or not isinstance(self.lookup(node.expr), Variable):
            raise self.error("unsupported", f"write {sign}= 1 as a statement of its own here.", node)
        symbol = self.variable_to_write(node.expr)
        old = self.value(node.expr)
        to = common(old.type, INT)
        new = self.convert(self.binary(sign, self.convert(old, to), Value("1", INT, 1, 1), to, node), old.type)
        if to.is_float:
            new = self.convert(self.binary(sign, old, Value("1.0", old.type), to, node), old.type)
        code = f"({symbol.name} := {new.code})"
        return Value(f"({old.code}, {code})[0]" if post else code, old.type)

    def value_Assignment(self, node) -> Value:
        """An assignment inside of an expression."""
        if isinstance(node.lvalue, c_ast.ID):
            symbol = self.lookup(node.lvalue)
            if isinstance(symbol, PointerVariable):
                raise self.error("unsupported", "let a pointer point elsewhere in a statement of its own.", node)
            if isinstance(symbol, Variable):
                symbol = self.variable_to_write(node.lvalue)
                return Value(f"({symbol.name} := {self.assigned_value(node).code})", symbol.type)
        place = self.element(node.lvalue)
        if place is None or node.op != "=":
            raise self.error("unsupported", "write this assignment as a statement of its own.", node)
        self.refuse_const(place, node)
        site = self.site("store", node, place.root.name if place.root else "", place.scalar.size, place.volatile)
        checks = [f"({check})" for check in place.checks]
        pair = place.pair if not checks else f"({' and '.join(checks)}, {place.pair})[1]"
        value = self.convert(self.value(node.rvalue), place.scalar)
        return Value(f"STORE({site.number}, A, {pair}, {value.code})", place.scalar)

    def assigned_value(self, node) -> Value:
        """The right side of an assignment to a number, with what = or += does, of the left side's type."""
        old = self.lookup(node.lvalue)
        right = self.value(node.rvalue)
        if node.op != "=":
            right = self.combined(node.op[:-1], self.value(node.lvalue), right, node)
        return self.convert(right, old.type)

    def combined(self, op: str, left: Value, right: Value, node) -> Value:
        """``left op right`` for numbers of any types."""
        if op in ("<<", ">>"):
            return self.shift(op, left, right, node)
        to = common(left.type, right.type)
        return self.binary(op, self.convert(left, to), self.convert(right, to), to, node)

    def value_FuncCall(self, node) -> Value:
        return self.call(node)

    def result_of(self, helper: str, wanted: Scalar | None, values: list[Value], flops: int) -> Value:
        to = builtins.result_type(wanted, values)
        self.flops += flops
        arguments = ", ".join(self.convert(value, to).code for value in values)
        return Value(f"{'F' if to == FLOAT else 'D'}_{helper}({arguments})", to)


def _is_nonzero(code: str) -> bool:
    return bool(re.fullmatch(r"\d+\.\d*(e[+-]?\d+)?", code)) and float(code) != 0.0


def _interval(op: str, left: Value, right: Value) -> tuple[int, int]:
    match op:
        case "+":
            return left.low + right.low, left.high + right.high
        case "-":
            return left.low - right.high, left.high - right.low
        case "*":
            corners = [a * b for a in (left.low, left.high) for b in (right.low, right.high)]
            return min(corners), max(corners)
        case "&" if left.low >= 0 or right.low >= 0:
            return 0, min(side.high for side in (left, right) if side.low >= 0)
    bits = max(side.bit_length() for side in (left.low, left.high, right.low, right.high))
    is_signed = left.low < 0 or right.low < 0
    return -(1 << bits) if is_signed else 0, (1 << bits) - 1
