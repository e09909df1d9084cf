"""Finds the CUDA sources and hands over each as one self-contained text.

Local headers are pasted in here rather than left to the compiler, for two reasons: NVRTC then needs no include
path, and CuPy's disk cache, whose key is the source text, sees a change in a header.
"""

import re
from pathlib import Path

_LOCAL_INCLUDE = re.compile(r'\s*#\s*include\s*"([^"]+)"')
_PRAGMA_ONCE = re.compile(r"\s*#\s*pragma\s+once\b")
_CONDITION_OPENS = re.compile(r"\s*#\s*if")  # #if, #ifdef, #ifndef
_CONDITION_CLOSES = re.compile(r"\s*#\s*endif\b")


def kernel_folder() -> Path:
    """The folder with the .cu and .cuh files: inside an installed package, or beside the package in a checkout.

    Raises FileNotFoundError when it is in neither place.
    """
    return _find(Path(__file__).resolve().parent.parent)


def names() -> list[str]:
    """The names of all kernel files, sorted: what `read` takes."""
    return sorted(path.name for path in kernel_folder().glob("*.cu"))


def read(name: str) -> str:
    """The text of kernel file `name`, with every local header pasted in once, where it is first included.

    `#line` directives keep the compiler's messages at the file and line that a person would open.
    Raises ValueError for an unknown name, for a header that is not there, and for an include inside `#if`.
    """
    folder = kernel_folder().resolve()
    if name not in names():
        raise ValueError(f"name must be one of the kernel files {', '.join(names())}, got {name!r}")
    return "\n".join(_inlined(folder / name, folder, seen=set())) + "\n"


def _find(package: Path) -> Path:
    inside = package / "kernels"
    if inside.is_dir():
        return inside
    checkout = package.parent
    beside = checkout / "kernels"
    # pyproject.toml tells a checkout from a site-packages folder that happens to hold somebody's "kernels".
    if beside.is_dir() and (checkout / "pyproject.toml").is_file():
        return beside
    raise FileNotFoundError(
        f"the CUDA sources were not found: looked for {inside}, and for {beside} next to a pyproject.toml; "
        "the installation is incomplete, so install gpulstm again"
    )


def _inlined(path: Path, folder: Path, seen: set[Path]) -> list[str]:
    """The lines of `path` with its local headers in place; `seen` collects the files already pasted."""
    seen.add(path)
    shown = path.relative_to(folder).as_posix()
    lines = [f'#line 1 "{shown}"']
    open_conditions = 0
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if "#" not in line:  # most of them, in each first call of a kernel
            lines.append(line)
            continue
        open_conditions += bool(_CONDITION_OPENS.match(line)) - bool(_CONDITION_CLOSES.match(line))
        include = _LOCAL_INCLUDE.match(line)
        if include:
            if open_conditions:
                # Pasted once, and in a branch that may be off, a header would be missing from the rest of the text.
                raise ValueError(
                    f"{shown}:{number}: a local header is included inside #if; include it at the top of the file "
                    "(headers use #pragma once, not #ifndef guards)"
                )
            header = (path.parent / include[1]).resolve()
            if not header.is_file() or not header.is_relative_to(folder):
                raise ValueError(f'{shown}:{number}: #include "{include[1]}" names no file in {folder}')
            if header not in seen:
                lines += _inlined(header, folder, seen)
            lines.append(f'#line {number + 1} "{shown}"')
        elif _PRAGMA_ONCE.match(line):
            lines.append("")  # pasted once already; in the main text the pragma draws a warning
        else:
            lines.append(line)
    return lines
