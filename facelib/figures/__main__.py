"""python -m facelib.figures [results]"""

import sys
from pathlib import Path

from facelib.figures import regenerate

if __name__ == "__main__":
    for folder in regenerate(*map(Path, sys.argv[1:2])):
        print(f"drawn: {folder / 'figures'}")
