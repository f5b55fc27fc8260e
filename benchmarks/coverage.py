"""How often intervals hold the true error rate: python benchmarks/coverage.py [repeats].

Scores are drawn from a model whose error rates are known, people and images anew each time. Every person shifts their
genuine scores (some are hard to recognise) and their impostor scores (some resemble everybody), the two with opposite
signs; every image shifts its own; so comparisons that share a person or an image are not independent. All shifts are
normal, hence the scores too, and the true rates have a closed form. Writes results/benchmarks/coverage.csv, and of differences
of two networks' rates coverage_differences.csv.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import norm

from facelib import verification

# Standard deviations
GENUINE = (0.5, 0.3, 0.8)  # of person, each of two images, rest
IMPOSTOR = (0.35, 0.85)  # of each of two people, rest
CORRELATION = -0.4  # of a person's two shifts
CASES = pd.DataFrame([(80, 2, 0.1, 0.01), (80, 2, 0.02, 0.01), (80, 2, 0.005, 0.01), (368, 2, 0.01, 0.01),
                      (30, 5, 0.15, 0.01), (60, 6, 0.1, 0.001), (60, 6, 0.005, 0.001)],
                     columns=["people", "images", "eer", "far"])
DIFFERENCES = [(80, 2, (0.1, 0.12)), (80, 2, (0.02, 0.03)), (80, 2, (0.005, 0.015)), (30, 2, (0.005, 0.03)), (80, 2, (0.02, 0.02)),
               (30, 5, (0.03, 0.05)), (60, 6, (0.1, 0.12))]


def spreads() -> tuple[float, float]:
    """Standard deviations of genuine and impostor scores."""
    person, image, rest = GENUINE
    return np.sqrt(person**2 + 2 * image**2 + rest**2), np.sqrt(2 * IMPOSTOR[0]**2 + IMPOSTOR[1]**2)


def true_rates(eer: float, far: float) -> tuple[float, float]:
    """The EER and the FRR at that FAR."""
    genuine, impostor = spreads()
    return eer, norm.cdf((impostor * norm.isf(far) - distance(eer)) / genuine)


def distance(eer: float) -> float:
    """Between the means of genuine and impostor scores: a threshold equally many deviations from both has this EER."""
    return norm.isf(eer) * sum(spreads())


def draw(random: np.random.Generator, people: int, images: int, eer: float) -> np.ndarray:
    """Similarity of every image with every image, (people * images, people * images), a person's images in a row."""
    person = np.repeat(np.arange(people), images)
    recognised = random.normal(size=people)
    resembled = CORRELATION * recognised + np.sqrt(1 - CORRELATION**2) * random.normal(size=people)
    image, rest = random.normal(size=person.size), random.normal(size=(person.size, person.size))
    genuine = distance(eer) + GENUINE[0] * recognised[person] + GENUINE[1] * np.add.outer(image, image)
    genuine = genuine + GENUINE[2] * rest
    impostor = IMPOSTOR[0] * np.add.outer(resembled[person], resembled[person]) + IMPOSTOR[1] * rest
    return np.where(np.equal.outer(person, person), genuine, impostor)


def coverage(people: int, images: int, eer: float, far: float, repeats: int, resamples: int = 500) -> pd.DataFrame:
    """Of `repeats` 95 % intervals of each metric, the shares that hold the true rate, lie below it, lie above it."""
    protocol = verification.all_against_all(np.repeat(np.arange(people), images))
    number = np.arange(people * images, dtype=float)[:, None]
    random = np.random.default_rng(people)
    found = []
    for seed in range(repeats):
        similarity = draw(random, people, images, eer)
        found.append(verification.evaluate(
            protocol, number, ("eer", f"frr_at_far_{far}"), resamples, seed,
            lambda a, b, drawn=similarity: drawn[np.ix_(a[:, 0].astype(int), b[:, 0].astype(int))]
        ).assign(truth=true_rates(eer, far)))
    return shares(pd.concat(found), people, images, repeats)


def shares(table: pd.DataFrame, people: int, images: int, repeats: int) -> pd.DataFrame:
    table = table.assign(below=table["ci_high"] < table["truth"], above=table["ci_low"] > table["truth"],
                         width=table["ci_high"] - table["ci_low"])
    table["covered"] = ~(table["below"] | table["above"])
    means = table.groupby("metric", sort=False)[["truth", "value", "covered", "below", "above", "width"]].mean()
    return means.reset_index().assign(people=people, images=images, repeats=repeats)


def coverage_of_difference(people: int, images: int, eers: tuple[float, float], repeats: int, resamples: int = 500) -> pd.DataFrame:
    """The same of the difference of two networks' EERs, measured on the same comparisons; half of what makes a comparison easy
    is the same for both networks."""
    person = np.repeat(np.arange(people), images)
    protocol, genuine = verification.all_against_all(person), np.equal.outer(person, person)
    number = np.arange(people * images, dtype=float)[:, None]
    random = np.random.default_rng(people)
    found = []
    for seed in range(repeats):
        shared, *own = (draw(random, people, images, 0.5) for _ in range(3))  # at an EER of 0.5 there is no distance
        measured = []
        for eer, one in zip(eers, own):
            similarity = (shared + one) / np.sqrt(2) + np.where(genuine, distance(eer), 0)
            measured.append(verification.measure(
                protocol, number, ("eer",), resamples, seed,
                lambda a, b, drawn=similarity: drawn[np.ix_(a[:, 0].astype(int), b[:, 0].astype(int))]))
        found.append(measured[1].minus(measured[0]))
    return shares(pd.concat(found).assign(truth=eers[1] - eers[0], metric="eer_change"), people, images, repeats)


if __name__ == "__main__":
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    folder = Path("results/benchmarks")
    folder.mkdir(parents=True, exist_ok=True)
    for name, work, cases in (("coverage_differences", coverage_of_difference, DIFFERENCES),
                              ("coverage", coverage, CASES.astype(object).itertuples(index=False))):
        found = pd.concat([work(*case, repeats) for case in cases])
        found.round(5).to_csv(folder / f"{name}.csv", index=False)
        print(found.round(4).to_string(index=False))
