"""Turns CUDA source into C++ that a host compiler accepts, and finds the kernels in it.

Works on preprocessed text: no comments, no conditions, macros expanded. Two things need rewriting, both
declarations of shared memory; everything else is plain C++ under the names of ``cpp/host_cuda.hpp``:

    __shared__ T name[A][B];          typedef T shared_name_0[A][B]; shared_name_0& name = <this block's>;
    extern __shared__ T name[];       T* name = <this block's dynamic shared memory>;

The typedef keeps the declaration as it was, so the compiler still checks type and extents. How many blocks make a
cluster is read off `__cluster_dims__(n, 1, 1)`, which stands behind `void`.

A kernel may take a plain struct by value; the compiler then says where each member lies.
"""

import re
from typing import NamedTuple

_INSIDE = r"[^()]"
for _ in range(4):  # parentheses within parentheses, as deep as a macro may put them
    _INSIDE = rf"(?:[^()]|\({_INSIDE}*\))"
_BOUNDS = rf"(?:__launch_bounds__\s*\({_INSIDE}*\)\s*)?"
_CLUSTER = r"(?:__cluster_dims__\s*\(\s*(?P<cluster>\d+)\s*,\s*1\s*,\s*1\s*\)\s*)?"
_KERNEL = re.compile(
    rf'extern\s+"C"\s+__global__\s+{_BOUNDS}void\s+{_BOUNDS}{_CLUSTER}'
    r"(?P<name>\w+)\s*\((?P<parameters>[^()]*)\)\s*\{"
)
_ALIGN = r"(?:__align__\s*\(\s*\d+\s*\)\s*|alignas\s*\(\s*\w+\s*\)\s*)?"
_DYNAMIC = re.compile(
    rf"\bextern\s+{_ALIGN}__shared__\s+{_ALIGN}(?P<type>[\w:<>\s]+?)\s+{_ALIGN}(?P<name>\w+)\s*\[\s*\]\s*;"
)
_STATIC = re.compile(
    rf"\b(?:static\s+)?{_ALIGN}__shared__\s+(?P<align>{_ALIGN})(?P<type>[\w:<>\s]+?)\s+"
    r"(?P<name>\w+)\s*(?P<extents>(?:\[[^\[\];]+\]\s*)*);"
)
_STRUCT = re.compile(r"\bstruct\s+(?P<name>\w+)\s*\{(?P<body>[^{}]*)\}\s*;")
_MEMBER = re.compile(r"(?P<type>.*[\s*])(?P<name>\w+)\s*(?:\[[^\[\]]+\])?", re.DOTALL)


class Parameter(NamedTuple):
    name: str
    type: str  # as written, without __restrict__


class Kernel(NamedTuple):
    name: str
    parameters: tuple[Parameter, ...]
    cluster: int = 1  # blocks of a cluster


class SourceError(Exception):
    """The source uses something that the rewriting does not know."""


def kernels(text: str) -> list[Kernel]:
    """The `extern "C" __global__` functions of preprocessed source."""
    text = _without_linemarkers(text)
    found = []
    for match in _KERNEL.finditer(text):
        parts = [part for part in match["parameters"].split(",") if part.strip()]
        parameters = tuple(_parameter(part, match["name"]) for part in parts)
        found.append(Kernel(match["name"], parameters, int(match["cluster"] or 1)))
    if len(found) != len(re.findall(r"\b__global__\b", text)):
        raise SourceError(
            'a __global__ function was not understood: write `extern "C" __global__ void name(...) {`, with '
            "`__launch_bounds__(...)` and then `__cluster_dims__(n, 1, 1)` behind `void`, n a number"
        )
    return found


def host_source(text: str) -> str:
    """Preprocessed CUDA source as C++, followed by what the runtime asks about its kernels."""
    found = kernels(text)
    return _shared_memory(text) + "\n" + "".join(_struct_kinds(text, found)) + _table(found)


def _without_linemarkers(text: str) -> str:
    return re.sub(r"^#.*$", "", text, flags=re.MULTILINE)


def _parameter(text: str, kernel: str) -> Parameter:
    plain = re.sub(r"\b__restrict__\b", " ", text)
    match = re.fullmatch(r"\s*(?P<type>.*[\s*&])(?P<name>\w+)\s*", plain, flags=re.DOTALL)
    if match is None or "[" in plain or "&" in plain or "=" in plain:
        raise SourceError(f"{kernel}: parameter {' '.join(text.split())!r} was not understood")
    return Parameter(match["name"], " ".join(match["type"].split()))


def _shared_memory(text: str) -> str:
    count = 0

    def dynamic(match: re.Match) -> str:
        _require_inside_function(text, match)
        element = match["type"].strip()
        return f"{element}* {match['name']} = static_cast<{element}*>(host_cuda::dynamic_shared());"

    def static(match: re.Match) -> str:
        nonlocal count
        alias = f"shared_{match['name']}_{count}"
        line = (
            f"typedef {match['type'].strip()} {alias}{match['extents']} {match['align']}; "
            f"{alias}& {match['name']} = host_cuda::Shared<{alias}, {count}>::get();"
        )
        count += 1
        return line

    rewritten = _STATIC.sub(static, _DYNAMIC.sub(dynamic, text))
    left = re.search(r"\b__shared__\b", rewritten)
    if left:
        line = rewritten[rewritten.rfind("\n", 0, left.start()) + 1 :].partition("\n")[0]
        raise SourceError(
            f"shared memory was not understood: {line.strip()!r}; declare one variable per statement, without an "
            "initial value, as `__shared__ T name[...];` or `extern __shared__ T name[];`"
        )
    return rewritten


def _require_inside_function(text: str, match: re.Match) -> None:
    before = text[: match.start()]
    if before.count("{") <= before.count("}"):
        raise SourceError(f"declare {match['name']} inside the kernel: at file level it has no block to belong to")


def _struct_kinds(text: str, found: list[Kernel]) -> list[str]:
    """For each struct that a kernel takes by value, what `host_cuda::Kind` says: its size, and each member's place."""
    taken = {parameter.type.removeprefix("const ") for kernel in found for parameter in kernel.parameters}
    return [
        _struct_kind(match["name"], match["body"])
        for match in _STRUCT.finditer(_without_linemarkers(text))
        if match["name"] in taken
    ]


def _struct_kind(name: str, body: str) -> str:
    lines = [
        "namespace host_cuda { template <> struct Kind<" + name + "> { static const char* text() {",
        f'static char text[4096]; int n = snprintf(text, sizeof text, "struct:%zu", sizeof({name}));',
    ]
    for declaration in filter(None, map(str.strip, body.split(";"))):
        member = _MEMBER.fullmatch(declaration)
        if member is None or "," in declaration:
            raise SourceError(
                f"struct {name}: {' '.join(declaration.split())!r} was not understood; declare one member per "
                "statement, as `T name;` or `T name[N];`"
            )
        where, element = f"{name}::{member['name']}", f"std::remove_all_extents_t<decltype({name}::{member['name']})>"
        lines.append(
            f'n += snprintf(text + n, sizeof text - n, ",%s:%s:%zu:%zu", "{member["name"]}", Kind<{element}>::text(), '
            f"offsetof({name}, {member['name']}), sizeof({where}) / sizeof({element}));"
        )
    return "\n".join([*lines, "return text; } }; }", ""])


def _table(found: list[Kernel]) -> str:
    """`host_cuda_describe` says names and parameter kinds, `host_cuda_find` gives a function that unpacks arguments."""
    lines = ['#line 1 "host_cuda_table"']
    for kernel in found:
        values = ", ".join(
            f"*static_cast<{parameter.type}*>(args[{i}])" for i, parameter in enumerate(kernel.parameters)
        )
        lines.append(f"static void host_cuda_call_{kernel.name}(void** args) {{ (void)args;")
        lines.append(f"{kernel.name}({values}); }}")
    export = 'extern "C" __attribute__((visibility("default")))'
    lines.append(f"{export} const char* host_cuda_describe() {{ static char text[65536];")
    lines.append('snprintf(text, sizeof text, "%zu\\n", host_cuda::registered_bytes());')
    for kernel in found:
        lines.append(f'strcat(text, "{kernel.name}");')
        for parameter in kernel.parameters:
            lines.append(f'strcat(text, " "); strcat(text, host_cuda::Kind<{parameter.type}>::text());')
        lines.append('strcat(text, "\\n");')
    lines.append("return text; }")
    lines.append(f"{export} void (*host_cuda_find(const char* name))(void**) {{")
    for kernel in found:
        lines.append(f'if (!strcmp(name, "{kernel.name}")) return host_cuda_call_{kernel.name};')
    lines.append("return nullptr; }")
    return "\n".join(lines) + "\n"
