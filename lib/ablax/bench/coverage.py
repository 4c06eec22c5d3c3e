"""./launch.sh bench coverage: how often the intervals and the tests of a report are right.

Samples are drawn from populations whose truth is known, and given to the functions that the
report calls: one call per sample. A 95% interval should cover the truth in 95 of 100 samples, and
of studies in which no row differs from the baseline, 5 of 100 may find one that does.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from scipy import stats

from ablax.bench.machine import provenance
from ablax.bench.tables import Part, heading, publish, table
from ablax.cli.flags import read
from ablax.errors import UserError
from ablax.report.statistics import (
    LEVEL,
    RESAMPLES,
    Interval,
    best_of_k,
    bootstrap_interval,
    holm,
    interquartile_mean,
    mean_interval,
    median,
    paired_difference,
    probability_of_improvement,
    share_interval,
    sign_flip_test,
)

ROWS = 10
"""Rows of a table, all compared to one baseline."""
BEST_OF = 4
EFFECT = 0.5
"""Difference between the two samples of a pair, in standard deviations."""
TOLERATED = 0.02
"""How far from its level the coverage may be before it is pointed out."""
CHUNK = 10**6
CHUNKS = 8
"""Truths without a formula are averages over this many chunks of values."""


@dataclass(frozen=True)
class Flags:
    """Measure the coverage of 95% intervals and the false positive rates of tests."""

    simulations: Annotated[int, tyro.conf.arg(help="samples of every population")] = 2000
    n: Annotated[int, tyro.conf.arg(help="values of a sample: restarts")] = 16
    resamples: Annotated[int, tyro.conf.arg(help="of a bootstrap interval")] = RESAMPLES
    seed: Annotated[int, tyro.conf.arg(help="of the samples")] = 0
    quick: Annotated[bool, tyro.conf.arg(help="tiny sizes, to see that it runs")] = False
    out: Annotated[Path, tyro.conf.arg(help="where to write the numbers")] = Path(
        "runs/bench-coverage.json"
    )


@dataclass(frozen=True)
class Population:
    """Population that restarts are drawn from: a distribution of scipy.stats, times a scale."""

    distribution: Any
    scale: float = 1.0

    def draw(self, rng: np.random.Generator, shape: int | tuple[int, ...]) -> np.ndarray:
        """Unscaled, so that sums of counts stay counts and ties stay ties."""
        return self.distribution.rvs(shape, random_state=rng).astype(np.float64)

    def sample(self, rng: np.random.Generator, shape: int | tuple[int, ...]) -> np.ndarray:
        return self.scale * self.draw(rng, shape)

    @property
    def effect(self) -> float:
        """The unscaled difference of a pair; a count where the values are counts."""
        effect = EFFECT * self.distribution.std()
        return float(effect if self.scale == 1 else round(effect))

    def pair(
        self, rng: np.random.Generator, shape: int | tuple[int, ...]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Two samples that share one half of what makes them vary, `effect` apart."""
        shared, a, b = (self.draw(rng, shape) for _ in range(3))
        return self.scale * (shared + a + self.effect), self.scale * (shared + b)

    def null_differences(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Differences of every row to the baseline, [ROWS, n], with mean 0.

        Their common part is what they owe to the baseline. It is added, not subtracted: they
        are as skewed as the population is.
        """
        rows, shared = self.draw(rng, (ROWS, n)), self.draw(rng, n)
        return self.scale * (rows + shared - 2 * self.distribution.mean())


POPULATIONS = {
    "normal": Population(stats.norm()),
    "lognormal, σ 0.5": Population(stats.lognorm(0.5)),
    "t, 3 degrees of freedom": Population(stats.t(3)),
    "accuracy, 95% of 360": Population(stats.binom(360, 0.95), 1 / 360),
}
BEST = f"best of {BEST_OF}, BCa"
BEST_MEASURED = f"{BEST}, of its own expectation"
ALONE, UNCORRECTED, CORRECTED = (
    "one sign-flip test",
    f"any of {ROWS} sign-flip tests",
    f"any of {ROWS}, Holm",
)


def main(arguments: list[str]) -> None:
    flags = read(Flags, "bench coverage", arguments)
    for name, least in {"simulations": 1, "n": 2, "resamples": 1, "seed": 0}.items():
        if getattr(flags, name) < least:
            raise UserError(f"--{name}: expected at least {least}, got {getattr(flags, name)}")
    if flags.quick:
        flags = replace(
            flags,
            simulations=min(flags.simulations, 50),
            resamples=min(flags.resamples, 499),
        )
    result = measure(flags)
    publish(result, parts(result), flags.out)


def measure(flags: Flags) -> dict[str, Any]:
    """Every figure of every population, as the JSON that is written."""
    started = time.perf_counter()
    coverage: dict[str, dict[str, Any]] = {}
    errors: dict[str, dict[str, Any]] = {}
    fallen_back: dict[str, dict[str, int]] = {}
    for i, (name, population) in enumerate(POPULATIONS.items()):
        truth = truths(population, flags.n, 1 if flags.quick else CHUNKS, _rng(flags, i, 0))
        measured = list(simulated_intervals(population, flags, _rng(flags, i, 1)))
        for row in truth:
            covers = sum(s[row].low <= truth[row] <= s[row].high for s in measured)
            coverage.setdefault(row, {})[name] = _share(covers, flags) | {"truth": truth[row]}
            percentile = sum(s[row].method == "percentile" for s in measured)
            if percentile:
                fallen_back.setdefault(row, {})[name] = percentile
        for row, wrong in false_positives(population, flags, _rng(flags, i, 2)).items():
            errors.setdefault(row, {})[name] = _share(wrong, flags)
    return {
        **provenance(),
        "flags": {**asdict(flags), "out": str(flags.out)},
        "seconds": time.perf_counter() - started,
        "coverage": coverage,
        "errors": errors,
        "fallen_back": fallen_back,
    }


def _rng(flags: Flags, *stream: int) -> np.random.Generator:
    return np.random.default_rng([flags.seed, *stream])


def _share(count: int, flags: Flags) -> dict[str, float]:
    measured = share_interval(count, flags.simulations)
    return {"share": measured.estimate, "low": measured.low, "high": measured.high}


def best_of_four(values: np.ndarray, axis: int = -1) -> np.ndarray:
    return best_of_k(values, BEST_OF, axis)


def simulated_intervals(
    population: Population, flags: Flags, rng: np.random.Generator
) -> Iterator[dict[str, Interval]]:
    """Every interval that a report would give of each sample, by the name of its statistic."""
    for seed in range(flags.simulations):
        values = population.sample(rng, flags.n)
        a, b = population.pair(rng, flags.n)
        bootstrap: Callable[..., Interval] = partial(
            bootstrap_interval, values, resamples=flags.resamples, seed=seed
        )
        best = bootstrap(best_of_four)
        yield {
            "mean, t": mean_interval(values),
            "mean, BCa": bootstrap(np.mean),
            "median, BCa": bootstrap(median),
            "interquartile mean, BCa": bootstrap(interquartile_mean),
            BEST: best,
            BEST_MEASURED: best,
            "paired mean difference, t": paired_difference(a, b),
            "probability of improvement, exact": probability_of_improvement(a - b),
        }


def truths(
    population: Population, n: int, chunks: int, rng: np.random.Generator
) -> dict[str, float]:
    """True value of each statistic in the population.

    Of the interquartile mean it is the expectation over samples of n. The best of four has two:
    that of four values of the population, and the expectation of what n measured values give
    for it, which is lower, because four draws with replacement may meet the same value twice.
    """

    def averages() -> tuple[float, ...]:
        samples = population.sample(rng, (max(1, CHUNK // n), n))
        a, b = population.pair(rng, CHUNK)
        return (
            interquartile_mean(samples).mean(),
            population.sample(rng, (CHUNK // BEST_OF, BEST_OF)).max(1).mean(),
            best_of_four(samples).mean(),
            (a > b).mean() + (a == b).mean() / 2,
        )

    middle, best, best_measured, improves = np.mean([averages() for _ in range(chunks)], axis=0)
    mean = population.scale * population.distribution.mean()
    return {
        "mean, t": float(mean),
        "mean, BCa": float(mean),
        "median, BCa": float(population.scale * population.distribution.median()),
        "interquartile mean, BCa": float(middle),
        BEST: float(best),
        BEST_MEASURED: float(best_measured),
        "paired mean difference, t": float(population.scale * population.effect),
        "probability of improvement, exact": float(improves),
    }


def false_positives(
    population: Population, flags: Flags, rng: np.random.Generator
) -> dict[str, int]:
    """The number of studies without any difference in which a test finds one."""
    wrong = dict.fromkeys((ALONE, UNCORRECTED, CORRECTED), 0)
    for seed in range(flags.simulations):
        differences = population.null_differences(rng, flags.n)
        p = [sign_flip_test(row, seed=seed) for row in differences]
        wrong[ALONE] += p[0] <= 1 - LEVEL
        wrong[UNCORRECTED] += min(p) <= 1 - LEVEL
        wrong[CORRECTED] += bool(holm(p).min() <= 1 - LEVEL)
    return wrong


def parts(result: dict[str, Any]) -> Iterator[Part]:
    """One table, and what in it is not as it should be."""
    flags = result["flags"]
    yield heading(result)
    names = list(POPULATIONS)
    rows = [
        [f"{kind}: {row}", *(_cell(cells[name]) for name in names)]
        for kind, figures in (("covers", result["coverage"]), ("false positive", result["errors"]))
        for row, cells in figures.items()
    ]
    title = (
        f"Coverage of 95% intervals, and false positives at 5%, of samples of {flags['n']}: "
        f"{flags['simulations']:,} of each population, {flags['resamples']:,} resamples, "
        f"seed {flags['seed']}; in brackets the 95% interval of the figure"
    )
    yield table(title, ["", *names], rows)
    outside = [
        f"{row}, {name}: {cell['share']:.1%}"
        for row, cells in result["coverage"].items()
        for name, cell in cells.items()
        if abs(cell["share"] - LEVEL) > TOLERATED
    ]
    above = [
        f"{name}: {cell['share']:.1%}"
        for name, cell in result["errors"][CORRECTED].items()
        if cell["low"] > 1 - LEVEL
    ]
    fallen_back = [
        f"{row}, {name}: {count / flags['simulations']:.1%}"
        for row, counts in result["fallen_back"].items()
        for name, count in counts.items()
    ]
    titled = {
        f"coverage outside of {LEVEL - TOLERATED:.0%} to {LEVEL + TOLERATED:.0%}": outside,
        "more than 5% false positives in spite of Holm's correction": above,
        "BCa undefined, percentile interval instead": fallen_back,
    }
    for title, entries in titled.items():
        yield "\n".join([f"{title}: {'' if entries else 'none'}".rstrip(), *entries]) + "\n"


def _cell(figure: dict[str, float]) -> str:
    low, high = 100 * figure["low"], 100 * figure["high"]
    return f"{figure['share']:.1%} ({low:.1f} to {high:.1f})"
