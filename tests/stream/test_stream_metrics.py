"""What Prometheus is told: counted once, in real buckets, from one port a process; and the dashboard asks for nothing else."""

import json
import re
import urllib.request
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.parser import text_string_to_metric_families

from operators import metrics
from operators.metrics import AGE_BUCKETS_S, AgeHistogram, FollowMetrics, StreamMetrics

OBSERVABILITY = Path(__file__).parents[2] / "infra" / "observability"


def samples(registry: CollectorRegistry) -> dict[str, float]:
    """Every sample with a value, by its name and labels as one writes them in a query."""
    found = {}
    for family in registry.collect():
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sample.labels.items())
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


@given(st.lists(st.lists(st.floats(0, 10_000) | st.sampled_from(AGE_BUCKETS_S), max_size=20), max_size=4))
def test_many_ages_at_once_are_counted_as_one_by_one(batches: list[list[float]]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    many = AgeHistogram("age", "-", ours)
    single = Histogram("age", "-", registry=theirs, buckets=AGE_BUCKETS_S)
    for batch in batches:
        many.observe(batch)
        for age_s in batch:
            single.observe(age_s)
    found, expected = samples(ours), samples(theirs)
    del expected["age_created"]
    assert found.keys() == expected.keys()
    assert found.pop("age_sum") == pytest.approx(expected.pop("age_sum"))
    assert found == expected


def test_a_clock_that_is_behind_makes_no_negative_age() -> None:
    registry = CollectorRegistry()
    AgeHistogram("age", "-", registry).observe([-5.0, 0.0005])
    assert samples(registry)['age_bucket{le="0.001"}'] == 2
    assert samples(registry)["age_sum"] == pytest.approx(0.0005)


def test_a_batch_is_counted_by_outcome_size_time_and_age() -> None:
    registry = CollectorRegistry()
    counts = StreamMetrics(registry)
    assert samples(registry)['uic_events_total{outcome="late"}'] == 0
    counts.observe_batch({"applied": 5, "duplicate": 2, "dead": 1, "forgotten": 3}, 8, 0.0015, 7 * 2 * 3232, [0.004] * 5)
    found = samples(registry)
    assert [found[f'uic_events_total{{outcome="{each}"}}'] for each in metrics.OUTCOMES] == [5, 2, 0, 1, 3]
    assert (found['uic_batch_events_bucket{le="4.0"}'], found['uic_batch_events_bucket{le="8.0"}']) == (0, 1)
    assert (found['uic_step_seconds_bucket{le="0.001"}'], found['uic_step_seconds_bucket{le="0.002"}']) == (0, 1)
    assert found["uic_state_bytes_total"] == 7 * 2 * 3232
    ages = [found[f'uic_event_to_state_seconds_bucket{{le="{bound}"}}'] for bound in ("0.002", "0.005", "+Inf")]
    assert ages == [0, 5, 5]


def test_each_subtask_says_which_bundle_it_applies_and_refusals_are_counted() -> None:
    registry = CollectorRegistry()
    counts = StreamMetrics(registry)
    assert samples(registry)["uic_bundle_refusals_total"] == 0
    counts.bundle(0, 1_763_800_000_123, 7_500)
    counts.bundle(1, 5, 0)
    counts.bundle(1, 6, 1_000)
    counts.bundle_refused()
    found = samples(registry)
    assert [found[f'uic_bundle_version{{subtask="{each}"}}'] for each in (0, 1)] == [1_763_800_000_123, 6]
    assert [found[f'uic_bundle_training_cut_off_seconds{{subtask="{each}"}}'] for each in (0, 1)] == [7.5, 1]
    assert found["uic_bundle_refusals_total"] == 1


def test_a_followers_batch_is_counted_by_result_and_freshness() -> None:
    registry = CollectorRegistry()
    counts = FollowMetrics(registry)
    counts.observe(written=4, stale=3, deleted=2, refused=1, ages_s=[0.0101, 0.3])
    counts.lag(2, 17)
    found = samples(registry)
    assert [found[f'uic_store_writes_total{{result="{each}"}}'] for each in metrics.RESULTS] == [4, 3, 2, 1]
    assert found['uic_follow_lag{partition="2"}'] == 17
    assert (found['uic_freshness_seconds_bucket{le="0.01"}'], found['uic_freshness_seconds_bucket{le="0.015"}']) == (0, 1)
    assert (found["uic_freshness_seconds_count"], found["uic_freshness_seconds_sum"]) == (2, pytest.approx(0.3101))


def test_two_operators_of_one_process_count_together() -> None:
    registry = CollectorRegistry()
    for _ in range(2):
        StreamMetrics(registry).observe_batch({"applied": 1}, 1, 0.001, 0, [])
    assert samples(registry)['uic_events_total{outcome="applied"}'] == 2


def test_a_process_has_one_port_and_answers_there() -> None:
    port = metrics.serve(0)
    assert port > 0
    assert metrics.serve(0) == port
    StreamMetrics()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        families = {family.name for family in text_string_to_metric_families(answer.read().decode())}
    assert {"uic_events", "uic_batch_events", "uic_event_to_state_seconds"} <= families


def test_every_name_in_the_dashboard_is_one_that_the_code_exports() -> None:
    registry = CollectorRegistry()
    StreamMetrics(registry).bundle(0, 1, 0)
    FollowMetrics(registry).lag(0, 0)
    exported = {sample.name for family in registry.collect() for sample in family.samples}
    dashboard = (OBSERVABILITY / "dashboard.json").read_text()
    asked = [target["expr"] for panel in json.loads(dashboard)["panels"] for target in panel.get("targets", [])]
    names = {name for query in asked for name in re.findall(r"uic_\w+", query)}
    assert names <= exported
    # And the other way round: what is counted can be seen. A histogram is seen by its buckets.
    assert {name for name in exported if not name.endswith(("_sum", "_count", "_created"))} <= names
    buckets = set(re.findall(r"quantile\([\d.]+, sum by \(le\) \(rate\((\w+)\[", " ".join(asked)))
    assert all(name.endswith("_bucket") for name in buckets)


def test_the_scrape_example_is_yaml_with_a_job_for_workers_and_one_for_followers() -> None:
    content = yaml.safe_load((OBSERVABILITY / "prometheus.yml").read_text())
    assert {job["job_name"] for job in content["scrape_configs"]} == {"uic-workers", "uic-follow"}
