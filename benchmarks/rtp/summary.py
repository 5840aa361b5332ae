"""What a run of requests comes to: HDR histograms of latencies, and what the generator itself took."""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from hdrh.histogram import HdrHistogram

from benchmarks.rtp.generator import Answers, Int64

_LONGEST_US = 120_000_000
_DIGITS = 3


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Milliseconds from the moment a request was to be sent. `histogram`: all of it, as HdrHistogram writes it."""

    count: int
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    histogram: str


def latency(latency_us: Int64) -> Latency | None:
    """None where there were no answers."""
    if len(latency_us) == 0:
        return None
    histogram = HdrHistogram(1, _LONGEST_US, _DIGITS)
    for value, count in zip(*np.unique(latency_us.clip(1), return_counts=True), strict=True):
        histogram.record_value(int(value), int(count))
    p50, p90, p99, p999 = (histogram.get_value_at_percentile(each) / 1000 for each in (50, 90, 99, 99.9))
    return Latency(
        count=len(latency_us),
        mean_ms=float(latency_us.mean()) / 1000,
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        p999_ms=p999,
        max_ms=float(latency_us.max()) / 1000,
        histogram=histogram.encode().decode(),
    )


def summary(answers: Answers) -> dict[str, Any]:  # JSON
    """Of the answers with scores: latencies and how many a second; of the others: how many of each status.

    `late_p99_ms`: how late the generator itself sent what was due; `generator`: its share of one core.
    """
    ok = latency(answers.latency_us[answers.is_ok])
    others = Counter(answers.status[~answers.is_ok].tolist())
    return {
        **({} if ok is None else asdict(ok)),
        "per_second": float(answers.is_ok.sum() / np.ptp(answers.due_s)) if len(answers.due_s) > 1 else 0.0,
        "others": {str(status): count for status, count in sorted(others.items())},
        "errors": sum(count for status, count in others.items() if status != 503),
        "retried": answers.retried,
        "late_p99_ms": float(np.percentile(answers.late_us, 99)) / 1000 if len(answers.late_us) else 0.0,
        "generator": answers.cpu_s / answers.seconds,
    }


def by_window(answers: Answers, window_s: float) -> list[float]:
    """p99 of the answers with scores in ms, for each stretch of so many seconds: whether the slow ones come all at once."""
    ok = answers.only(answers.is_ok)
    window = ((ok.due_s - ok.due_s[:1]) // window_s).astype(np.int64)
    return [float(np.percentile(ok.latency_us[window == each], 99)) / 1000 for each in np.unique(window)]
