"""Makes the table and the charts of a results file: python benchmarks/report.py benchmarks/results/compare-gpu.json"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.against_torch import bounds, chart, results, table  # noqa: E402


def report(path: Path, suffix: str = "svg") -> list[Path]:
    """Writes the page and the charts beside the file, and returns where they are."""
    document = results.read(path)
    if document["device"] == "gpu" and "bound" not in document:
        bounds.add(document, path.parent)
    charts = chart.draw(document, path.parent, path.stem, suffix)
    page = path.with_suffix(".md")
    page.write_text(table.page(document, [drawn.name for drawn in charts]), encoding="utf-8")
    return [page, *charts]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, help="a JSON file that benchmarks/compare.py wrote")
    parser.add_argument("--format", choices=("svg", "png"), default="svg", help="of the charts")
    chosen = parser.parse_args(arguments)
    for written in report(chosen.file, chosen.format):
        print(written)


if __name__ == "__main__":
    main()
