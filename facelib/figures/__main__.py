"""python -m facelib.figures [results] [--one-column]"""

import argparse
from pathlib import Path

from facelib.figures import regenerate

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m facelib.figures", description="Redraws all figures from their tables.")
    parser.add_argument("results", type=Path, nargs="?", default=Path("results"))
    parser.add_argument("--one-column", action="store_true",
                        help="besides, most figures that are two columns wide for one column, as NAME_one_column")
    options = parser.parse_args()
    for folder in regenerate(options.results, options.one_column):
        print(f"drawn: {folder / 'figures'}")
