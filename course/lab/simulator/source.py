"""From CUDA C to the plain C that pycparser reads, line by line, so that every position stays the learner's own."""

import re
from dataclasses import dataclass

from pycparser import c_ast, c_parser

from .errors import Finding, KernelError

PRELUDE = (
    "typedef _Bool bool; typedef unsigned long size_t; typedef signed char int8_t; typedef unsigned char uint8_t; "
    "typedef short int16_t; typedef unsigned short uint16_t; typedef int int32_t; typedef unsigned int uint32_t; "
    "typedef long long int64_t; typedef unsigned long long uint64_t; typedef unsigned int uint; "
)
HEADERS = r"cooperative_groups\.h|cuda_runtime\.h|math\.h|cmath|stdint\.h|cstdint|float\.h|cfloat"

# What C++ and CUDA have and the simulator has not; each with what to write instead.
UNSUPPORTED = (
    (r"\btemplate\b", "templates are more than the simulator knows: write one function per type"),
    (r"\b(struct|class|union)\b", "{0} is more than the simulator knows: pass plain arrays and numbers"),
    (r"\bgoto\b", "goto is more than the simulator knows: write a loop or an if"),
    (r"\bswitch\b", "switch is more than the simulator knows: write if and else if"),
    (r"\b(new|delete|malloc|free)\b", "memory is not allocated inside a kernel here: hand an array over"),
    (r"\b(printf|cout)\b", "the simulator does not print from a kernel: write the value into an array"),
    (r"\b(asm)\b", "assembly is more than the simulator knows"),
    (r"\b__constant__\b", "__constant__ memory is more than the simulator knows: pass a const pointer"),
    (r"<<<", "kernel<<<grid, block>>> is how C++ launches; here Python does: k(grid, block, ...)"),
    (
        r"\b((?:float|double|int|uint|char|short|long)[234])\b",
        "{0} is more than the simulator knows: use plain numbers",
    ),
    (
        r"\b(__half2?|(?:__)?nv_bfloat16|half(?=\s+[A-Za-z_]|\s*\*+\s*\w+\s*[,)]))\b",
        "{0} is more than the simulator knows: use float",
    ),
    (r"\b(?:float|double|int|bool|unsigned|long|real|uint|char)\s*&", "references (&) are C++: pass a pointer"),
    (r"\bauto\b", "auto is more than the simulator knows: write the type"),
    (r"\b(\w+)::", "{0}:: is more than the simulator knows"),
    (r"[\"']", "text in quotes is more than the simulator knows"),
)
# What one writes who comes from Python. The words and, or, not are C++, too.
FROM_PYTHON = (
    (r"\b(if|while|for)\b(?!\s*\()", "C wants brackets around what follows {0}, and no colon: {0} (...) {{ ... }}"),
    (r"\b(elif)\b", "in C this is: else if (...) {{ ... }}"),
    (r"\b(True|False)\b", "C writes true and false without a capital"),
    (
        r"\b(?:np|cp|math)\s*\.\s*(\w+)",
        "functions of C stand alone, and those of a float end in f: expf(x), not np.exp(x)",
    ),
)
WORDS = {"and": "&&", "or": "||", "not": "!"}
DIRECTIVES = ("if", "ifdef", "ifndef", "elif", "else", "endif", "error", "warning", "line", "include")
CASTS = r"float|double|int|unsigned|bool|uint|size_t|real"


@dataclass(frozen=True)
class Prepared:
    """The learner's lines, the plain C of the same lines, and what was read off on the way."""

    lines: tuple[str, ...]
    text: str
    kernels: tuple[str, ...]
    uses_grid_sync: bool

    def error(self, kind: str, message: str, line: int | None) -> KernelError:
        return KernelError(self.finding(kind, message, line))

    def finding(self, kind: str, message: str, line: int | None, **where) -> Finding:
        return Finding(kind, message, line, self.line_text(line), **where)

    def line_text(self, line: int | None) -> str:
        return self.lines[line - 1].strip() if line and line <= len(self.lines) else ""


def prepare(source: str) -> Prepared:
    """Comments, directives and CUDA's own words taken out of ``source``. Raises KernelError where it is no such C."""
    if not isinstance(source, str):
        raise KernelError(Finding("syntax", f"a kernel is given as text, got {type(source).__name__}."))
    state = Prepared(tuple(source.split("\n")), "", (), False)
    text = _without_comments(source, state)
    text = text.replace('extern "C"', "__extern_c__")
    text = _macros(_directives(text, state), state)
    text = _cooperative_groups(text)
    uses_grid_sync = "__grid_sync" in text
    kernels = _kernels(text, state)
    text = re.sub(r"\b__extern_c__", "", text)
    text = re.sub(r"\b(static|const)_cast\s*<([^<>]+)>", r"(\2)", text)
    for pattern, message in UNSUPPORTED:
        if found := re.search(pattern, text):
            raise state.error("unsupported", message.format(*found.groups()) + ".", _line_of(text, found.start()))
    for pattern, message in FROM_PYTHON:
        if found := re.search(pattern, text):
            raise state.error("syntax", message.format(*found.groups()) + ".", _line_of(text, found.start()))
    text = re.sub(rf"\b({'|'.join(WORDS)})\b", lambda found: WORDS[found[0]], text)
    return Prepared(state.lines, _plain_c(text), kernels, uses_grid_sync)


def parse(prepared: Prepared) -> c_ast.FileAST:
    """The syntax tree. Raises KernelError with the learner's line where it is no C."""
    parser = c_parser.CParser()
    try:
        return parser.parse(PRELUDE + prepared.text, "kernel")
    except c_parser.ParseError as error:
        found = re.match(r"kernel:(\d+)(?::\d+)?: (.*)", str(error))
        line, what = (int(found[1]), found[2]) if found else (_last_line(parser, prepared), str(error))
        message = "this is not C."
        if "end of input" in what.lower():
            message = "the source ends too early: a closing brace } is missing."
        elif near := re.search(r"before: (.*)", what):
            token, above = near[1].strip(), _line_above(prepared, line)
            message = f"this is not C before '{token}': a ; or a bracket is missing there, or a type is not known."
            begins = re.match(re.escape(token) + r"(?!\w)", prepared.line_text(line).strip())
            if above and begins and not prepared.line_text(above).rstrip().endswith(";"):
                line, message = (
                    above,
                    f"after this line comes '{token}', and C does not allow that: is a ; missing here?",
                )
        raise prepared.error("syntax", message, line) from None


def _line_above(prepared: Prepared, line: int) -> int | None:
    """The last line before ``line`` that has any C in it."""
    above = prepared.text.split("\n")[: line - 1]
    return max((number for number, text in enumerate(above, 1) if text.strip()), default=None)


def _last_line(parser, prepared: Prepared) -> int | None:
    """Where the parser stood when it gave up without saying where; None if it does not tell."""
    tokens = getattr(parser, "_tokens", None)
    try:
        return tokens.peek().lineno
    except AttributeError:
        return len(prepared.lines)


def _line_of(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def _without_comments(source: str, state: Prepared) -> str:
    def blank(found):
        return " " + "\n" * found[0].count("\n")

    text = re.sub(r"//[^\n]*|/\*.*?\*/", blank, source, flags=re.DOTALL)
    if "/*" in text:
        line = _line_of(text, text.index("/*"))
        raise state.error("syntax", "a comment begins with /* and never ends with */.", line)
    return text


def _directives(text: str, state: Prepared) -> list[tuple[str, dict[str, str]]]:
    """Each line, without directives, and the macros that hold in it."""
    macros: dict[str, str] = {}
    out = []
    for number, line in enumerate(text.split("\n"), 1):
        found = re.match(r"\s*#\s*(\w+)\s*(.*)", line)
        if found is None:
            out.append((line, macros))
            continue
        word, rest = found[1], found[2].strip()
        out.append(("", macros))
        if word == "define":
            defined = re.fullmatch(r"(\w+)(\([^)]*\))?\s*(.*)", rest)
            if defined is None or defined[2] and not re.match(r"\w+\s+\(", rest):
                message = "only #define NAME value is known here, not a macro with arguments: write a function."
                raise state.error("unsupported", message, number)
            macros = {**macros, defined[1]: (defined[2] or "") + defined[3]}
        elif word == "undef":
            macros = {name: value for name, value in macros.items() if name != rest}
        elif word == "include" and re.fullmatch(rf'[<"]({HEADERS})[>"]', rest) or word == "pragma":
            continue
        else:
            if word not in DIRECTIVES:
                raise state.error("syntax", "# speaks to the compiler. A comment begins with // in C.", number)
            raise state.error("unsupported", f"#{word} {rest} is more than the simulator knows.", number)
    return out


def _macros(lines: list[tuple[str, dict[str, str]]], state: Prepared) -> str:
    out = []
    for number, (line, macros) in enumerate(lines, 1):
        for _ in range(20):  # macros that name macros
            replaced = re.sub(r"\b[A-Za-z_]\w*\b", lambda found: macros.get(found[0], found[0]), line)  # noqa: B023
            if replaced == line:
                break
            line = replaced
        else:
            raise state.error("syntax", "a #define names itself, in a circle.", number)
        out.append(line)
    return "\n".join(out)


def _cooperative_groups(text: str) -> str:
    """The grid's barrier and the block's under one name each."""
    for alias in re.findall(r"\bnamespace\s+(\w+)\s*=\s*cooperative_groups\s*;", text):
        text = re.sub(rf"\b{alias}::", "cooperative_groups::", text)
    text = re.sub(r"\b(using\s+)?namespace\s+(\w+\s*=\s*)?cooperative_groups\s*;", "", text)
    text = text.replace("cooperative_groups::", "")
    for maker, kind, barrier in (
        ("this_grid", "grid_group", "__grid_sync()"),
        ("this_thread_block", "thread_block", "__syncthreads()"),
    ):
        declared = rf"\b(?:const\s+)?(?:auto|{kind})\s+(\w+)\s*=\s*{maker}\s*\(\s*\)\s*;"
        for name in re.findall(declared, text):
            text = re.sub(rf"\b{name}\s*\.\s*sync\s*\(\s*\)", barrier, text)
        text = re.sub(declared, ";", text)
        text = re.sub(rf"\b{maker}\s*\(\s*\)\s*\.\s*sync\s*\(\s*\)", barrier, text)
    return text


def _kernels(text: str, state: Prepared) -> tuple[str, ...]:
    bounds = r"(?:__launch_bounds__\s*\([^)]*\)\s*)?"
    names = []
    for found in re.finditer(rf"(\b__extern_c__\s+)?\b{bounds}__global__\s+{bounds}(\w+)\s+{bounds}(\w+)", text):
        line = _line_of(text, found.start(3))
        if found[2] != "void":
            raise state.error("syntax", f"a kernel returns nothing: write void instead of {found[2]}.", line)
        if not found[1]:
            message = f'write extern "C" before __global__ void {found[3]}: else CuPy does not find it by its name.'
            raise state.error("syntax", message, line)
        names.append(found[3])
    if not names:
        message = 'there is no kernel in this source: a function that begins with extern "C" __global__ void.'
        raise KernelError(Finding("syntax", message))
    return tuple(names)


def _plain_c(text: str) -> str:
    text = re.sub(r"\b__launch_bounds__\s*\([^)]*\)", "", text)
    words = (
        "__global__|__device__|__host__|__forceinline__|__noinline__|__inline__|inline|__restrict__|__restrict|static"
    )
    text = re.sub(rf"\b({words})\b", "", text)
    text = re.sub(r"\bconstexpr\b", "const", text)
    text = re.sub(r"\bextern\s+__shared__\b", "extern", text)
    text = re.sub(r"\b__shared__\b", "static", text)
    typedefs = "|".join([CASTS, *re.findall(r"\btypedef\s+\w+\s+(\w+)\s*;", text)])
    # float(x) is C++ for (float)(x)
    return re.sub(rf"(?<![\w(])({typedefs})\s*\((?!\s*[*&])|(?<=\()({typedefs})\s*\((?!\s*[*&])", _as_cast, text)


def _as_cast(found: re.Match) -> str:
    return f"({found[1] or found[2]})("
