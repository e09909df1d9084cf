"""Builds the course as a static site that needs no network, neither to be built nor to be read.

    python course/site/build.py               into build/site
    python course/site/build.py OUT           into another folder

Open index.html in it, or put the folder on any web server. It shows the notebooks as they are stored; nothing is
executed. What this needs: pip install ".[site]".
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # for pages, which finds mathml there too
MARK = ".buildinfo"  # Sphinx puts it into what it has built


def build(out: Path) -> int:
    """Makes the site in ``out``, in the place of an earlier one. Returns 0, or Sphinx's error."""
    if out.exists() and any(out.iterdir()) and not (out / MARK).exists():
        sys.exit(f"{out} holds something else than an earlier site. It stays as it is; choose another folder.")
    from pages import Pages
    from sphinx.cmd.build import build_main

    with tempfile.TemporaryDirectory() as scratch:
        source, built = Path(scratch) / "pages", Path(scratch) / "built"
        Pages(source).write()
        options = ["-q", "-W", "--keep-going", "-j", str(min(os.cpu_count() or 1, 4))]
        folders = ["-c", str(HERE), "-d", str(Path(scratch) / "doctrees"), str(source), str(built)]
        trouble = build_main(["-b", "html", *options, *folders])
        if not trouble:
            shutil.rmtree(out, ignore_errors=True)
            shutil.copytree(built, out)
    return trouble


if __name__ == "__main__":
    place = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parent.parent / "build" / "site"
    if error := build(place.resolve()):
        sys.exit(error)
    print(f"Open {place / 'index.html'}")
