"""The rows of the table of limits: measured value, limit that must hold, aim and verdict."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from benchmarks.load import LoadResult

LoadResults = dict[tuple[str, int], dict[int, LoadResult]]  # (contender, connections) -> round -> result
DEFAULT_CONNECTIONS = 32  # of a row that does not name another number


@dataclass(frozen=True)
class Row:
    """A measured value and its limits."""

    label: str
    value: float | None  # None: not measured in this run
    must: float
    aim: float | None = None
    at_least: bool = True  # False: the value must be at most `must`
    note: str = ""

    @property
    def verdict(self) -> str:
        if self.value is None:
            return "not measured"
        if self.aim is not None and self.reaches(self.aim):
            return "pass, aim reached"
        return "pass" if self.reaches(self.must) else "FAIL"

    def reaches(self, limit: float) -> bool:
        assert self.value is not None
        return self.value >= limit if self.at_least else self.value <= limit

    def line(self) -> str:
        """The row in Markdown."""
        sign = "≥" if self.at_least else "≤"
        value = "" if self.value is None else f"{self.value:.3g}"
        aim = "" if self.aim is None else f"{sign} {self.aim:g}"
        return f"| {self.label} | {value} | {sign} {self.must:g} | {aim} | {self.verdict} | {self.note} |"


TABLE_HEAD = "| | measured | must | aim | verdict | note |\n|---|---:|---:|---:|---|---|"


def median_ratio(
    results: LoadResults,
    numerator: str,
    denominator: str,
    figure: Callable[[LoadResult], float],
    connections: int = DEFAULT_CONNECTIONS,
) -> float | None:
    """The median over the rounds of one contender's figure over another's; both figures are of the same round."""
    over, under = results.get((numerator, connections), {}), results.get((denominator, connections), {})
    ratios = [figure(over[number]) / figure(under[number]) for number in over.keys() & under.keys()]
    return median(ratios) if ratios else None


def per_second(result: LoadResult) -> float:
    return result.per_second


def p50(result: LoadResult) -> float:
    return result.p50_ms


def tail_latency(results: LoadResults, name: str) -> float | None:
    """The median over the rounds of p99 / p50."""
    ratios = [result.p99_ms / result.p50_ms for result in results.get((name, DEFAULT_CONNECTIONS), {}).values()]
    return median(ratios) if ratios else None


def speed_row(label: str, results: LoadResults, ours: str, other: str, must: float, aim: float) -> Row:
    """Our requests/s over the other's. The note has the ratio of the CPU times, which other load on the machine
    disturbs less."""
    by_cpu = median_ratio(results, other, ours, lambda result: result.cpu_ms)
    note = "" if by_cpu is None else f"{by_cpu:.3g} by CPU time"
    return Row(label, median_ratio(results, ours, other, per_second), must, aim, note=note)


def load_rows(results: LoadResults) -> list[Row]:
    """The rows that compare the contenders under load."""
    rows = [
        speed_row("requests/s, tutorial's Net, over the no-op endpoint", results, "ours", "noop", 1.3, 2),
        speed_row("requests/s, shipped checkpoint, over the no-op endpoint", results, "shipped", "noop", 0.6, 1),
        speed_row("requests/s over the usual FastAPI service", results, "ours", "usual", 4, 6),
        speed_row("requests/s over LitServe", results, "ours", "litserve", 6, 12),
        speed_row("requests/s over BentoML", results, "ours", "bentoml", 6, 12),
        speed_row("requests/s over Ray Serve, default proxy", results, "ours", "ray", 6, 12),
        speed_row("requests/s over Ray Serve, HAProxy", results, "ours", "ray-haproxy", 1, 3),
    ]
    rows += [
        Row(f"p99 / p50, {model}", tail_latency(results, name), 2.5, 1.5, at_least=False)
        for name, model in (("ours", "tutorial's Net"), ("shipped", "shipped checkpoint"))
    ]
    p50_ratio = median_ratio(results, "ours", "noop", p50, 1)
    rows.append(Row("p50 at 1 connection over the no-op endpoint's", p50_ratio, 1.3, 0.8, at_least=False))
    for one, two, model in (("one", "two", "tutorial's Net"), ("shipped-one", "shipped-two", "shipped checkpoint")):
        wrk_cores = [result.generator_cores for result in results.get((two, DEFAULT_CONNECTIONS), {}).values()]
        note = f"wrk used {median(wrk_cores):.2f} of the two cores" if wrk_cores else ""
        ratio = median_ratio(results, two, one, per_second)
        rows.append(Row(f"requests/s, two workers over one, {model}", ratio, 1.7, 1.9, note=note))
    return rows
