"""Progress with rate and time left: a bar where a person waits, plain lines now and then in batch."""

from __future__ import annotations

import io
import os
import sys

import tqdm.auto
import tqdm.std

BATCH = "FACELIB_BATCH"  # environment variable: the seconds between two lines; set by facelib.batch
PART = "FACELIB_PART"  # environment variable: whose lines they are, where several parts run at once; set by the Snakefile


class _Lines(tqdm.std.tqdm):
    def display(self, msg=None, pos=None):
        text = str(self).strip()
        if self.n > self.initial and text != getattr(self, "printed", ""):
            self.printed = text
            print(": ".join(filter(None, (os.environ.get(PART), text))), file=sys.stderr, flush=True)


def progress(iterable=None, what: str = "", total: int | None = None, unit: str = "it", initial: int = 0):
    """tqdm over an iterable: a bar in a terminal or a notebook, lines when FACELIB_BATCH is set."""
    if os.environ.get(BATCH):
        return _Lines(iterable, what, total, file=io.StringIO(), unit=unit, initial=initial, mininterval=float(os.environ[BATCH]), maxinterval=1e9,
                      miniters=1, bar_format="{desc}: {n_fmt} of {total_fmt} {unit}, {rate_noinv_fmt}, {elapsed} passed, {remaining} left{postfix}")
    return tqdm.auto.tqdm(iterable, what, total, unit=unit, initial=initial, mininterval=1, leave=False)
