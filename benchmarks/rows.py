"""The rows of the table: measured value, required value, aim."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from benchmarks.load import Load

Loads = dict[tuple[str, int], dict[int, Load]]  # contender, connections -> round -> result
LEVEL = 32  # connections, where the rows do not say otherwise


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    value: float | None  # None: not measured in this run
    must: float
    aim: float | None = None
    at_least: bool = True
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
        sign = "≥" if self.at_least else "≤"
        value = "" if self.value is None else f"{self.value:.3g}"
        aim = "" if self.aim is None else f"{sign} {self.aim:g}"
        return f"| {self.what} | {value} | {sign} {self.must:g} | {aim} | {self.verdict} | {self.note} |"


HEAD = "| | measured | must | aim | | |\n|---|---:|---:|---:|---|---|"


def ratio(loads: Loads, ours: str, other: str, figure: Callable[[Load], float], level: int = LEVEL) -> float | None:
    """The median over the rounds of ours over the other's, each pair from the same round."""
    over, under = loads.get((ours, level), {}), loads.get((other, level), {})
    pairs = [figure(over[number]) / figure(under[number]) for number in over.keys() & under.keys()]
    return median(pairs) if pairs else None


def per_second(load: Load) -> float:
    return load.per_second


def p50(load: Load) -> float:
    return load.p50_ms


def tail(loads: Loads, name: str) -> float | None:
    """The median over the rounds of p99 / p50."""
    found = [load.p99_ms / load.p50_ms for load in loads.get((name, LEVEL), {}).values()]
    return median(found) if found else None


def speed(what: str, loads: Loads, ours: str, other: str, must: float, aim: float) -> Row:
    """Our requests/s over the other's; beside it, the ratio of CPU times, which a busy machine disturbs less."""
    by_cpu = ratio(loads, other, ours, lambda load: load.cpu_ms)
    note = "" if by_cpu is None else f"{by_cpu:.3g} by CPU time"
    return Row(what, ratio(loads, ours, other, per_second), must, aim, note=note)


def table(loads: Loads) -> list[Row]:
    """The rows on speed."""
    rows = [
        speed("requests/s, tutorial's Net, over the no-op endpoint", loads, "ours", "noop", 1.3, 2),
        speed("requests/s, shipped checkpoint, over it", loads, "shipped", "noop", 0.6, 1),
        speed("requests/s over the usual service", loads, "ours", "usual", 4, 6),
        speed("requests/s over LitServe", loads, "ours", "litserve", 6, 12),
        speed("requests/s over BentoML", loads, "ours", "bentoml", 6, 12),
        speed("requests/s over Ray Serve", loads, "ours", "ray", 6, 12),
    ]
    rows += [
        Row(f"p99 / p50, {model}", tail(loads, name), 2.5, 1.5, at_least=False)
        for name, model in (("ours", "tutorial's Net"), ("shipped", "shipped checkpoint"))
    ]
    rows.append(
        Row("p50 at 1 connection over the no-op endpoint's", ratio(loads, "ours", "noop", p50, 1), 1.3, 0.8, False)
    )
    for one, both, model in (("one", "two", "tutorial's Net"), ("shipped-one", "shipped-two", "shipped checkpoint")):
        busy = [load.generator_cores for load in loads.get((both, LEVEL), {}).values()]
        note = f"wrk on the same cores took {median(busy):.2f} of one" if busy else ""
        rows.append(Row(f"two workers over one, {model}", ratio(loads, both, one, per_second), 1.7, 1.9, note=note))
    return rows
