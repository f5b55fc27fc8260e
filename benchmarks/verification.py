"""Speed and memory of error rates, all against all: python benchmarks/verification.py [images] [dimensions].

11,040 images (368 people, 30 each) make 60.9 million comparisons. Measured, each in a fresh process: the exact EER, FRR
at three FARs, then the DET curve, from descriptors, their products included; EER and FRRs of the same scores held in
memory; scikit-learn's roc_curve on these; 1,000 resamples of subjects; and the first again for ten times as many.
Seconds of processor time, so that other work on the machine does not count; MB are the peak above what was there
before: the descriptors or the scores. Writes results/benchmarks/verification.csv.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
import tracemalloc
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import roc_curve

from facelib import verification

FARS = (0.0001, 0.001, 0.01)
METRICS = ("eer", *(f"frr_at_far_{far}" for far in FARS))
PER_PERSON = 30


def faces(images: int, dimensions: int) -> tuple[np.ndarray, np.ndarray]:
    """Subjects and descriptors of PER_PERSON images each, made with little memory."""
    random = np.random.default_rng(0)
    subjects = np.arange(images) // PER_PERSON
    descriptors = random.standard_normal((images, dimensions), dtype=np.float32)
    centres = random.standard_normal((subjects[-1] + 1, dimensions), dtype=np.float32)
    for subject, centre in enumerate(centres):
        descriptors[subjects == subject] += 0.3 * centre
    return subjects, descriptors


def held(images: int, dimensions: int) -> tuple[np.ndarray, np.ndarray]:
    subjects, descriptors = faces(images, dimensions)
    return verification.protocol_scores(verification.all_against_all(subjects), descriptors)


def from_descriptors(subjects: np.ndarray, descriptors: np.ndarray) -> None:
    verification.evaluate(verification.all_against_all(subjects), descriptors, METRICS, resamples=0)


def det_from_descriptors(subjects: np.ndarray, descriptors: np.ndarray) -> None:
    verification.protocol_det(verification.all_against_all(subjects), descriptors)


def from_scores(genuine: np.ndarray, impostor: np.ndarray) -> None:
    verification.equal_error_rate(genuine, impostor)
    for far in FARS:
        verification.frr_at_far(genuine, impostor, far)


def scikit_learn(genuine: np.ndarray, impostor: np.ndarray) -> None:
    roc_curve(np.repeat([1, 0], [genuine.size, impostor.size]), np.concatenate([genuine, impostor]))


def bootstrap(subjects: np.ndarray, descriptors: np.ndarray) -> None:
    verification.evaluate(verification.all_against_all(subjects), descriptors, METRICS, resamples=1000)


def measured(what: str, prepare, work, images: int, dimensions: int) -> dict:
    given = prepare(images, dimensions)
    tracemalloc.start()
    start = time.process_time()
    work(*given)
    return {"what": what, "images": images, "comparisons": images * (images - 1) // 2,
            "seconds": time.process_time() - start, "peak_mb": tracemalloc.get_traced_memory()[1] / 2**20}


def main(images: int = 11_040, dimensions: int = 1280) -> None:
    more = round(images * 10**0.5 / PER_PERSON) * PER_PERSON
    tasks = [("EER, 3 FRRs from descriptors", faces, from_descriptors, images, dimensions),
             ("DET curve from descriptors", faces, det_from_descriptors, images, dimensions),
             ("EER, 3 FRRs of scores in memory", held, from_scores, images, dimensions),
             ("scikit-learn roc_curve of scores in memory", held, scikit_learn, images, dimensions),
             ("EER, 3 FRRs with 1,000 resamples", faces, bootstrap, images, dimensions),
             ("EER, 3 FRRs from descriptors", faces, from_descriptors, more, dimensions)]
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        table = pd.DataFrame(pool.map(measured, *zip(*tasks, strict=True)))
    table["roc_curve_over_this"] = table["seconds"][3] / table["seconds"]
    folder = Path("results/benchmarks")
    folder.mkdir(parents=True, exist_ok=True)
    table.round(2).to_csv(folder / "verification.csv", index=False)
    print(table.round(2).to_string(index=False))
    first, last = table.iloc[0], table.iloc[-1]
    print(f"{last['comparisons'] / first['comparisons']:.1f} times the comparisons take "
          f"{last['seconds'] / first['seconds']:.1f} times as long")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
