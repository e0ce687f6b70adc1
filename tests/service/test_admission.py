import pytest

from service.admission import Admission, Deadline, DeadlineExceeded, Overloaded
from service.metrics import Metrics


def in_flight(metrics: Metrics) -> float | None:
    return metrics.registry.get_sample_value("fashion_mnist_in_flight")


def test_a_batch_takes_a_place_for_each_picture() -> None:
    metrics = Metrics()
    admission = Admission(4, 1, metrics)
    with admission.admit(3):
        assert admission.in_flight == in_flight(metrics) == 3
        with pytest.raises(Overloaded, match=r"^Too many pictures are in flight, 3 of 4; try again later\.$"):
            admission.check(2)
        with admission.admit(1), pytest.raises(Overloaded), admission.admit(1):
            pass
        assert admission.in_flight == 3
    assert admission.in_flight == in_flight(metrics) == 0


def test_places_are_given_back_after_an_error() -> None:
    admission = Admission(1, 1, Metrics())
    with pytest.raises(ZeroDivisionError), admission.admit():
        raise ZeroDivisionError
    admission.check()


def test_a_deadline_that_is_over_names_its_limit() -> None:
    Deadline(60).check()
    with pytest.raises(DeadlineExceeded, match=r"^The picture waited 0\.0 s, over the limit of 1e-09 s; try again"):
        Deadline(1e-9).check()
