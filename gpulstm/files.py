"""Files that are always whole.

A file is written beside its place, forced to the disk, and moved there in one step: whoever looks, even after a power
cut, finds the old file or the new one.
"""

import os
import secrets
from contextlib import suppress
from pathlib import Path


def checked_target(path: str | os.PathLike, what: str = "file") -> Path:
    """``path`` as a file that can be written; ``what`` is its word in a message.

    Raises TypeError, FileNotFoundError or IsADirectoryError.
    """
    target = as_path(path)
    if target.is_dir():
        raise IsADirectoryError(f"path must name a file, such as {target / 'run.safetensors'}, got the folder {target}")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"the folder {target.parent} of the {what} {target.name} does not exist; make it first")
    return target


def as_path(path: str | os.PathLike) -> Path:
    """``path`` as a `pathlib.Path`. Raises TypeError for anything but a string or a path."""
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path must be a string or a path, got {type(path).__name__}")
    return Path(path)


def write_whole(target: Path, content: bytes) -> None:
    """Writes a file, whole or not at all. What an interrupted writer has left beside it is removed.

    Raises RuntimeError where two programs write to one path, and whatever the disk has to say.
    """
    for leftover in leftovers(target):
        with suppress(OSError):  # gone by now, or held by another program
            leftover.unlink()
    part = target.with_name(f"{_part_prefix(target)}{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with part.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, target)
    except FileNotFoundError as error:
        raise RuntimeError(f"path must be written by one program at a time: another one saves to {target}") from error
    finally:
        with suppress(OSError):
            part.unlink()
    if os.name != "nt":  # where a folder cannot be opened, and a rename is in the journal
        descriptor = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def leftovers(target: Path) -> list[Path]:
    """What writers that were killed have left beside a file."""
    prefix = _part_prefix(target)
    return [entry for entry in target.parent.iterdir() if entry.name.startswith(prefix)]


def _part_prefix(target: Path) -> str:
    return f".{target.name}.part-"
