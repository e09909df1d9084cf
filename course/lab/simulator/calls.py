"""Calls: mathematics, atomics, shuffles and the source's own functions."""

import difflib

from pycparser import c_ast

from . import builtins
from .numbers_of_c import BOOL, DOUBLE, FLOAT, INT, LONG, UINT, common, promoted
from .values import Function, Pointer, Value


class Calls:
    """Part of the translator: everything that is written name(...)."""

    def call(self, node) -> Value:
        """The value of a call; a barrier or a void function has none and is a statement of its own."""
        name = self.called_name(node)
        arguments = node.args.exprs if node.args else []
        if name in self.functions:
            function = self.functions[name]
            if function.result is None:
                raise self.error("syntax", f"{name} returns nothing, and a value is needed here.", node)
            return Value(self.own_call(function, arguments, node), function.result)
        if name in builtins.ATOMICS:
            return self.atomic(name, arguments, node)
        if name in builtins.SHUFFLES or name in builtins.VOTES:
            return self.exchange(name, arguments, node)
        if name in (*builtins.BARRIERS, *builtins.FENCES):
            raise self.error("syntax", f"{name}() has no value: write it as a statement of its own.", node)
        if any(self.pointer(argument) is not None for argument in arguments):
            self.refuse_unknown(name, node)
            raise self.error("syntax", f"{name} takes numbers, not an array.", node)
        values = [self.value(argument) for argument in arguments]
        return self.mathematics(name, values, node)

    def called_name(self, node) -> str:
        if not isinstance(node.name, c_ast.ID):
            raise self.error("unsupported", "only a function's own name can be called here.", node)
        return node.name.name

    def refuse_unknown(self, name: str, node) -> None:
        known = [*builtins.known(), *self.functions]
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f" Is {near[0]} meant?" if near else ""
            raise self.error("unknown function", f"there is no function {name} here.{hint}", node)

    def count_arguments(self, name: str, values: list, wanted: int, node) -> None:
        if len(values) != wanted:
            raise self.error("syntax", f"{name} takes {wanted} arguments, here it gets {len(values)}.", node)

    def mathematics(self, name: str, values: list[Value], node) -> Value:
        if name in ("min", "max", "abs"):
            return self.smallest(name, values, node)
        if name in builtins.TESTS:
            self.count_arguments(name, values, 1, node)
            return Value(f"{name.upper()}({values[0].code})", BOOL)
        if name in builtins.OPERATIONS:
            self.count_arguments(name, values, 2, node)
            left, right = (self.convert(value, FLOAT) for value in values)
            return self.binary(builtins.OPERATIONS[name], left, right, FLOAT, node)
        found = builtins.mathematics(name)
        if found is None:
            self.refuse_unknown(name, node)
            raise self.error("unsupported", f"{name} is more than the simulator knows.", node)
        helper, wanted, to = found
        self.count_arguments(name, values, wanted, node)
        flops = 0 if helper in builtins.FREE else 2 if helper == "fma" else 1
        return self.result_of(helper, to, values, flops)

    def smallest(self, name: str, values: list[Value], node) -> Value:
        self.count_arguments(name, values, 1 if name == "abs" else 2, node)
        if any(value.type.is_float for value in values):
            to = common(values[0].type, values[-1].type)
            return self.result_of("fabs" if name == "abs" else f"f{name}", to, values, 0)
        if name == "abs":
            to = promoted(values[0].type)
            high = max(abs(values[0].low), abs(values[0].high))
            return self.wrapped(f"abs({values[0].code})", to, 0, high)
        to = common(values[0].type, values[1].type)
        left, right = (self.convert(value, to) for value in values)
        choose = min if name == "min" else max
        bounds = choose(left.low, right.low), choose(left.high, right.high)
        return Value(f"{name}({left.code}, {right.code})", to, *bounds)

    def own_call(self, function: Function, arguments: list, node) -> str:
        """Python that calls a __device__ function; the thread's own things, T, go first."""
        self.count_arguments(function.name, arguments, len(function.parameters), node)
        codes = ["T"]
        for parameter, argument in zip(function.parameters, arguments, strict=True):
            if not parameter.is_pointer:
                codes.append(self.convert(self.value(argument), parameter.type).code)
                continue
            pointer = self.required_pointer(argument)
            self.refuse_pointer(parameter, pointer, node)
            codes.append(pointer.pair)
        call = f"f_{function.name}({', '.join(codes)})"
        return f"(yield from {call})" if function.waits else call

    def refuse_pointer(self, parameter, pointer: Pointer, node) -> None:
        if pointer.scalar != parameter.type or pointer.dims != parameter.dims:
            message = f"{parameter.name} is to be {parameter.type}*, and here comes a {pointer.scalar}*."
            raise self.error("syntax", message, node)
        if pointer.const and not parameter.const:
            message = f"a const array goes to {parameter.name}, which may write: write const {parameter.type}* there."
            raise self.error("const", message, node)

    def atomic(self, name: str, arguments: list, node) -> Value:
        self.count_arguments(name, arguments, 3 if name == "atomicCAS" else 2, node)
        place = self.indexed(self.required_pointer(arguments[0]), None)
        if place.dims:
            raise self.error("syntax", f"{name} changes one number: {name}(&array[index], value).", node)
        self.refuse_const(place, node)
        to = place.scalar
        if to not in (INT, UINT, LONG, FLOAT, DOUBLE) and to.size != 8:
            raise self.error("unsupported", f"{name} on {to} is more than the simulator knows.", node)
        if to.is_float and name not in ("atomicAdd", "atomicExch"):
            raise self.error("syntax", f"{name} is for integers only.", node)
        self.flops += to.is_float and name == "atomicAdd"
        values = [self.convert(self.value(argument), to).code for argument in arguments[1:]]
        known = place.root.name if place.root else ""
        site = self.site("atomic", node, known, to.size, True)
        pair = place.pair
        if place.checks:
            pair = f"({' & '.join(place.checks)}, {pair})[1]"
        code = f"ATOMIC({name!r}, {site.number}, A, {pair}, {to.name!r}, {', '.join(values)})"
        return Value(code, to)

    def exchange(self, name: str, arguments: list, node) -> Value:
        """A warp operation: the thread waits, with its value, for the others of the mask."""
        votes = name in builtins.VOTES
        wanted = (2,) if votes else (3, 4)
        if len(arguments) not in wanted:
            raise self.error("syntax", f"{name} takes {wanted[0]} arguments, the first is the mask 0xffffffff.", node)
        mask = self.convert(self.integer(arguments[0]), UINT).code
        width = "32"
        if votes:
            value, lane, to = Value(self.condition(arguments[1]), BOOL), "0", UINT if "ballot" in name else INT
        else:
            value, lane = self.value(arguments[1]), self.convert(self.integer(arguments[2]), INT).code
            to = promoted(value.type)
            value = self.convert(value, to)
            width = self.convert(self.integer(arguments[3]), INT).code if len(arguments) == 4 else width
        site = self.site("shuffle", node)
        return Value(f"(yield (WARP, {site.number}, {mask}, {name!r}, {value.code}, {lane}, {width}))", to)

    def call_statement(self, node) -> None:
        """A call whose value nobody wants: barriers, fences, void functions, atomics."""
        name = self.called_name(node)
        arguments = node.args.exprs if node.args else []
        if name in self.functions:
            self.emit(self.own_call(self.functions[name], arguments, node))
        elif name in ("__syncthreads", "__grid_sync"):
            self.count_arguments(name, arguments, 0, node)
            kind = "BLOCK" if name == "__syncthreads" else "GRID"
            self.emit(f"yield ({kind}, {self.site('barrier', node).number})")
        elif name == "__syncwarp":
            mask = self.convert(self.integer(arguments[0]), UINT).code if arguments else str(0xFFFFFFFF)
            self.emit(f"yield (WARP, {self.site('barrier', node).number}, {mask}, '__syncwarp', 0, 0, 32)")
        elif name in builtins.FENCES:
            self.count_arguments(name, arguments, 0, node)
            if name == "__threadfence":
                self.mark("release", node)
        else:
            self.emit(self.value(node).code)
