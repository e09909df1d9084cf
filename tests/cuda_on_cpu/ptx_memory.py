"""The instructions of PTX that reach memory, as C++ over ``cpp/ptx.hpp``.

Global memory is the host's. A block's shared memory has addresses of its own, which `ptx::Shared` turns into the
host's: one of another block of the cluster has that block's rank in its upper bits.
"""

from .ptx_operands import C_TYPES, Operands, bits_of, elements
from .ptx_text import Instruction, PtxError


def _parts(one: Instruction, modifiers: list[str]) -> tuple[str, list[str], int, str]:
    """(space, what else is said, how many numbers, type) of a load or a store."""
    *rest, kind = modifiers
    count = 1
    if rest and rest[-1] in ("v2", "v4"):
        count = int(rest.pop()[1])
    spaces = [name for name in rest if name in ("global", "shared", "param", "shared::cluster")]
    if len(spaces) != 1:
        raise PtxError(f"{one.opcode}: the space of the address")
    rest.remove(spaces[0])
    return spaces[0], rest, count, kind


_WEAK = (["weak"], [])
_WATCHED = (["relaxed", "gpu"], ["volatile"])  # what others write meanwhile


def _place(space: str, address: str, kind: str, count: int, line: int) -> str:
    size = bits_of(kind) // 8 * count
    if space == "param":
        return f"reinterpret_cast<const char*>({address})"
    if space == "global":
        return f"ptx::global({address}, {size}, {line})"
    return f"shared.at({address}, {size}, {line})"


def _load(one: Instruction, modifiers: list[str], of: Operands) -> str:
    space, how, count, kind = _parts(one, modifiers)
    names, address = elements(one.operands[0]), of.address(one.operands[1])
    if len(names) != count:
        raise PtxError(f"{one.opcode} into {len(names)} registers")
    before = ""
    if space == "global" and how and how[0] == "nc" and how[1:] in ([], ["L1::no_allocate"]):
        before = f"ptx::reads_only(address, {bits_of(kind) // 8 * count}, {one.line}); "
    elif how in _WATCHED:
        before = f"watch.look(address, {one.line}); "
    elif how not in _WEAK:
        raise PtxError(f"load {one.opcode}")
    elif space == "global":
        before = f"ptx::reads(address, {bits_of(kind) // 8 * count}, {one.line}); "
    to = C_TYPES[kind]
    place = _place(space, "address", kind, count, one.line)
    writes = " ".join(of.write(name, kind, f"got[{i}]") for i, name in enumerate(names))
    fetched = f"{to} got[{count}]; memcpy(got, {place}, sizeof got);"
    return f"{{ const uint64_t address = {address}; {before}{fetched} {writes} }}"


def _store(one: Instruction, modifiers: list[str], of: Operands) -> str:
    if modifiers[0] == "async":
        return _store_async(one, modifiers, of)
    space, how, count, kind = _parts(one, modifiers)
    if how not in _WEAK and how not in _WATCHED or space == "param":
        raise PtxError(f"store {one.opcode}")
    values = elements(one.operands[1])
    if len(values) != count:
        raise PtxError(f"{one.opcode} of {len(values)} registers")
    given = ", ".join(of.read(value, kind) for value in values)
    noted = f"ptx::writes(address, {bits_of(kind) // 8 * count}, {one.line}); " if space == "global" else ""
    place = _place(space, "address", kind, count, one.line)
    function = (
        "ptx::store" if how in _WATCHED else "memcpy"
    )  # as in the other modes, who waits waits for the first kind
    return (
        f"{{ const uint64_t address = {of.address(one.operands[0])}; "
        f"const {C_TYPES[kind]} given[{count}] = {{{given}}}; {noted}{function}({place}, given, sizeof given); }}"
    )


def _store_async(one: Instruction, modifiers: list[str], of: Operands) -> str:
    """To another block's shared memory, which counts the bytes at that block's mbarrier."""
    start = ["async", "weak", "shared::cluster", "mbarrier::complete_tx::bytes"]
    *count, kind = modifiers[len(start) :]
    place, values, barrier = one.operands
    if modifiers[: len(start)] != start or count not in ([], ["v2"], ["v4"]):
        raise PtxError(one.opcode)
    given = ", ".join(of.read(value, kind) for value in elements(values))
    number = len(elements(values))
    return (
        f"{{ const {C_TYPES[kind]} given[{number}] = {{{given}}}; "
        f"shared.store_async({of.address(place)}, {of.address(barrier)}, given, sizeof given, {one.line}); }}"
    )


def _prefetch(one: Instruction, modifiers: list[str], of: Operands) -> str:
    if modifiers != ["global", "L2"]:
        raise PtxError(one.opcode)
    return f"ptx::prefetched({of.address(one.operands[0])}, {one.line});"


def _map_address(one: Instruction, modifiers: list[str], of: Operands) -> str:
    if modifiers != ["shared::cluster", "u32"]:
        raise PtxError(one.opcode)
    to, address, rank = one.operands
    value = f"shared.in_block({of.read(address, 'u32')}, {of.read(rank, 'u32')}, {one.line})"
    return of.write(to, "u32", value)


def _mbarrier(one: Instruction, modifiers: list[str], of: Operands) -> str:
    what = ".".join(modifiers)
    if what == "init.shared::cta.b64":
        address, count = one.operands
        return f"host_cuda::mbarrier_init({_counter(address, of, one)}, {of.read(count, 'u32')});"
    if what == "arrive.expect_tx.shared::cta.b64" and one.operands[0] == "_":
        _, address, count = one.operands
        return f"host_cuda::mbarrier_arrive_expect({_counter(address, of, one)}, {of.read(count, 'u32')});"
    if what == "try_wait.parity.acquire.cluster.shared::cta.b64":
        to, address, parity = one.operands
        passed = f"host_cuda::mbarrier_passed({_counter(address, of, one)}, {of.read(parity, 'u32')})"
        return (
            f"{{ const bool passed = {passed}; if (!passed) host_cuda::yield({one.line}); "
            f"{of.write(to, 'pred', 'passed')} }}"
        )
    raise PtxError(one.opcode)


def _counter(address: str, of: Operands, one: Instruction) -> str:
    return f"reinterpret_cast<unsigned long long*>(shared.at({of.address(address)}, 8, {one.line}))"


_HOST_TYPES = {"u32": "unsigned", "b32": "unsigned", "s32": "int", "f32": "float", "f64": "double"}
_HOST_TYPES |= {"u64": "unsigned long long", "b64": "unsigned long long"}
_ATOMICS = {"add": "atomicAdd", "max": "atomicMax", "min": "atomicMin", "exch": "atomicExch", "cas": "atomicCAS"}


def _atomic(one: Instruction, modifiers: list[str], of: Operands) -> str:
    space, operation, kind = modifiers[2:] if modifiers[:2] in (["relaxed", "gpu"], ["relaxed", "cta"]) else modifiers
    to, address, *values = one.operands
    if space not in ("global", "shared"):
        raise PtxError(one.opcode)
    size = bits_of(kind) // 8
    place = f"reinterpret_cast<{_HOST_TYPES[kind]}*>({_place(space, 'address', kind, 1, one.line)})"
    given = ", ".join(f"static_cast<{_HOST_TYPES[kind]}>({of.read(value, kind)})" for value in values)
    noted = f"ptx::writes(address, {size}, {one.line}); " if space == "global" else ""
    changed = of.write(to, kind, f"{_ATOMICS[operation]}({place}, {given})")
    return f"{{ const uint64_t address = {of.address(address)}; watch.look(address, {one.line}); {noted}{changed} }}"


MEMORY = {
    **{"ld": _load, "st": _store, "prefetch": _prefetch},
    **{"mapa": _map_address, "mbarrier": _mbarrier, "atom": _atomic},
}
