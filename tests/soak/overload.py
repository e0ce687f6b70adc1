"""Four times as many clients as the service lets in, for a minute: `python -m tests.soak.overload`."""

import json
import sys
from statistics import median
from typing import Any

from tests.soak.load import SHOE, pressed, service, upload

WAITING = 32
TIMES = 4
CAPACITY_SECONDS, OVERLOAD_SECONDS, AFTER_SECONDS = 10, 60, 5
RECOVERY_SECONDS = 1


def main() -> int:
    request = upload(SHOE)
    with service(SERVICE_MAX_WAITING=str(WAITING)):
        capacity = pressed(lambda: request, WAITING, CAPACITY_SECONDS)
        overload = pressed(lambda: request, TIMES * WAITING, OVERLOAD_SECONDS)
        after = pressed(lambda: request, WAITING, AFTER_SECONDS)
    begin = min(answer.ended for answer in after.answers)
    late = [answer.took for answer in after.answers if answer.ended > begin + RECOVERY_SECONDS]
    found: dict[str, Any] = {
        "capacity_per_second": capacity.statuses().get(200, 0) / CAPACITY_SECONDS,
        "capacity_p99_ms": 1e3 * capacity.quantile(0.99),
        "overload_statuses": overload.statuses(),
        "overload_accepted_per_second": overload.statuses().get(200, 0) / OVERLOAD_SECONDS,
        "overload_p99_ms": 1e3 * overload.quantile(0.99),
        "p99_ratio": overload.quantile(0.99) / capacity.quantile(0.99),
        "resets": overload.resets,
        "after_statuses": after.statuses(),
        "after_p50_ratio": median(late) / capacity.quantile(0.5),
    }
    told = all(b"retry-after" in answer.head for answer in overload.answers if answer.status == 503)
    held = (
        overload.statuses().keys() == {200, 503}
        and told
        and found["p99_ratio"] <= 3
        and overload.resets == 0
        and after.statuses().keys() == {200}
        and found["after_p50_ratio"] <= 1.5
    )
    print(
        f"At capacity {found['capacity_per_second']:,.0f} answers/s, p99 {found['capacity_p99_ms']:.1f} ms. "
        f"At {TIMES} times as many clients {found['overload_accepted_per_second']:,.0f} accepted/s, "
        f"p99 {found['overload_p99_ms']:.1f} ms; statuses {overload.statuses()}, {overload.resets} resets. "
        f"A second after, p50 is {found['after_p50_ratio']:.2f} times that at capacity."
    )
    print(json.dumps({"overload": found, "held": held}))
    return int(not held)


if __name__ == "__main__":
    sys.exit(main())
