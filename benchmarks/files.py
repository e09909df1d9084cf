"""Results files that are whole whenever a run is ended."""

import json
import os
from pathlib import Path
from typing import Any


def write(path: Path | None, document: Any) -> None:
    """Replaces the file in one step: whoever ends the run finds the old one or the new one. None writes nothing."""
    if path is None:
        return
    beside = path.with_name(path.name + ".part")
    beside.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    os.replace(beside, path)
