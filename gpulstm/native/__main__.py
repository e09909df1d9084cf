"""``python -m gpulstm.native``: compiles the LSTM for this processor, into the cache folder.

It takes no arguments. CC names the C compiler, GPULSTM_CACHE_DIR another folder; GPULSTM_CPU=numpy at run time goes
back to NumPy.
"""

import sys

from . import library


def main() -> int:
    if len(sys.argv) > 1:
        print(__doc__, end="")
        return 0 if sys.argv[1:] in (["-h"], ["--help"]) else 2
    try:
        path = library.build()
        loaded = library.load()
    except (RuntimeError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    if loaded is None:
        print(f"{path} was compiled, and is not used: {library.why_not()}", file=sys.stderr)
        return 1
    print(f"compiled {path}: NumPy arrays go through it from now on, with {loaded.threads} threads")
    return 0


if __name__ == "__main__":
    sys.exit(main())
