"""The study's figures, drawn from saved tables alone; `python -m facelib.figures [results]` redraws all of them.

One class per figure, after scikit-learn's displays: `from_table(...)` checks and computes, `plot(...)` draws, keeps
`figure_`, `axes_` and the drawn artists, and returns the display; `caption` says what is shown, in which units, and
what the interval is. Figures of tables need no torch. Rates are fractions in tables, percent on axes. Most figures of several panels
take a width: two columns of a journal, or one, where panels go below each other.
"""

from facelib.figures.curves import Arms, PruningCurve, SizeCurve, TemplateCurve
from facelib.figures.faces import ContactSheet, ImagesPerSubject, TrainingCurve
from facelib.figures.files import draw, draw_comparison, figures_of, figures_of_networks, regenerate
from facelib.figures.layers import FiltersLeft, WidthLoss, WidthsBeforeAfter
from facelib.figures.networks import (
    DetOfNetworks,
    ErrorAgainstSize,
    ErrorOfNetworks,
    FiltersLeftOfNetworks,
    SizeOfNetworks,
    TemplatesOfNetworks,
)
from facelib.figures.scores import DetCurves, DetDisplay, RocDisplay, ScoreHistogram
from facelib.figures.style import INTERVAL, MARKS, ONE_COLUMN, PAIRS, SHARES, TWO_COLUMNS, Figure, save, style

__all__ = ["Arms", "ContactSheet", "DetCurves", "DetDisplay", "DetOfNetworks", "ErrorAgainstSize", "ErrorOfNetworks", "Figure", "FiltersLeft",
           "FiltersLeftOfNetworks", "INTERVAL", "ImagesPerSubject", "MARKS", "ONE_COLUMN", "PAIRS", "PruningCurve", "RocDisplay", "SHARES",
           "ScoreHistogram", "SizeCurve", "SizeOfNetworks", "TWO_COLUMNS", "TemplateCurve", "TemplatesOfNetworks", "TrainingCurve", "WidthLoss",
           "WidthsBeforeAfter", "draw", "draw_comparison", "figures_of", "figures_of_networks", "regenerate", "save", "style"]
