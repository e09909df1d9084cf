"""A module of PTX as C++ that the host's compiler accepts: a function for each kernel, over ``cpp/ptx.hpp``."""

from .ptx_instructions import label, statement
from .ptx_operands import Operands
from .ptx_text import Entry, Label, Module, PtxError


def host_source(module: Module) -> str:
    """The whole source, with the two functions that `launcher` asks about its kernels."""
    operands = [Operands(entry, module) for entry in module.entries]
    static_bytes = max(of.static_bytes for of in operands)
    parts = ['#include "ptx.hpp"', f"static ptx::StaticShared static_shared({static_bytes});"]
    parts += [f"alignas({one.alignment}) static char {one.name}[{one.bytes}];" for one in module.variables]
    parts += [_function(entry, of) for entry, of in zip(module.entries, operands, strict=True)]
    return "\n".join([*parts, _table(module)])


def _function(entry: Entry, of: Operands) -> str:
    threads = f"{entry.most_threads}, {entry.cluster}"
    lines = [
        f"static void ptx_{entry.name}(void** args) {{",
        f"(void)args; ptx::check_launch({threads}); ptx::Watch watch; (void)watch;",
        f"const ptx::Shared shared(static_shared, {of.static_bytes}); (void)shared;",
        *of.declarations(),
    ]
    for one in entry.body:
        if isinstance(one, Label):
            lines.append(f"{label(one.name)}:;")
            continue
        try:
            done = statement(one, of)
            if one.predicate:
                done = f"if ({'!' if one.negated else ''}{of.read(one.predicate, 'pred')}) {{ {done} }}"
        except PtxError as error:
            raise PtxError(f"{entry.name}, line {one.line}: {error}") from None
        lines.append(done)
    return "\n".join([*lines, "}"])


def _table(module: Module) -> str:
    """`host_cuda_describe` says how much static shared memory there is, `host_cuda_find` gives a kernel's function."""
    export = 'extern "C" __attribute__((visibility("default")))'
    names = "".join(f'if (!strcmp(name, "{one.name}")) return ptx_{one.name};\n' for one in module.entries)
    return f"""
{export} const char* host_cuda_describe() {{
    static char text[32];
    snprintf(text, sizeof text, "%zu\\n", host_cuda::registered_bytes());
    return text;
}}
{export} void (*host_cuda_find(const char* name))(void**) {{
{names}return nullptr; }}
"""
