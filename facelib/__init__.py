"""Taylor-score filter pruning of face recognition networks: the open, runnable reference of the study.

Data flows one way: faces, networks, training, pruning (channels + importance), verification, results, layers, figures.
"""

__version__ = "0.1.0"
