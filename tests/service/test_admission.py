from contextlib import suppress

import pytest

from service.admission import Admission, Deadline, DeadlineExceeded, Overloaded
from service.metrics import Metrics
from tests.service.conftest import poll


def in_flight(metrics: Metrics) -> float | None:
    return metrics.registry.get_sample_value("fashion_mnist_in_flight")


def test_a_batch_takes_a_place_for_each_picture() -> None:
    metrics = Metrics()
    admission = Admission(4, metrics)
    admission.enter(3)
    assert admission.in_flight == in_flight(metrics) == 3
    with pytest.raises(Overloaded, match=r"^Too many pictures are in flight, 3 of 4; try again later\.$"):
        admission.enter(2)
    admission.enter()
    with pytest.raises(Overloaded):
        admission.check()
    admission.leave(3)
    admission.leave()
    assert admission.in_flight == in_flight(metrics) == 0


def test_a_deadline_that_is_over_names_its_limit() -> None:
    Deadline(60).check()
    with pytest.raises(DeadlineExceeded, match=r"^The picture waited 0\.0 s, over the limit of 1e-09 s; try again"):
        Deadline(1e-9).check()


def test_an_early_retry_is_refused_while_the_limit_is_reached_at_times() -> None:
    admission = Admission(1, Metrics())
    admission.check(early_retry=True)
    admission.enter()
    admission.leave()
    admission.check()
    with pytest.raises(Overloaded):
        admission.check(early_retry=True)
    for _ in poll():
        with suppress(Overloaded):
            admission.check(early_retry=True)
            break
