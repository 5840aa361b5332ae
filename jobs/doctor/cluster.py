"""Is the Flink cluster one that the job can run on?"""

from collections.abc import Iterator
from importlib.metadata import version

from jobs.cluster.facts import Overview
from jobs.cluster.rest import Cluster
from jobs.doctor.finding import Finding, ok, problem
from jobs.record import ClusterRecord
from uic.errors import EnvironmentProblem, UicError

_LEAST_RETAINED = 3
_PARENT_FIRST = "classloader.parent-first-patterns.additional"
_RETAINED = "execution.checkpointing.num-retained"


def check_cluster(url: str, parallelism: int, on: ClusterRecord | None) -> Iterator[Finding]:
    """Version, slots, Python for the workers, and how many checkpoints are kept; `on` is the job that may run there already."""
    try:
        cluster = Cluster(url)
        overview = cluster.overview()
        settings = cluster.configuration()
        jars = cluster.class_path()
        runs = on is not None and cluster.is_alive(on.job_id)
    except EnvironmentProblem as error:
        yield Finding("cluster", "absent", str(error))
        return
    except UicError as error:
        yield problem("cluster", error)
        return
    ours = version("apache-flink")
    if overview.flink_version != ours:
        yield problem(
            "cluster",
            f"{url} is Flink {overview.flink_version}, this environment has {ours}",
            f"use a cluster of Flink {ours}; the job's graph is made by the one and run by the other",
        )
    else:
        yield ok("cluster", f"{url}: Flink {ours}, {overview.taskmanagers} TaskManagers")
    yield _slots(overview, parallelism, runs=runs)
    if overview.slots_total > overview.taskmanagers:
        yield Finding(
            "cluster",
            "warning",
            f"{overview.slots_total} slots in {overview.taskmanagers} TaskManagers: those of one share one Python and its lock",
            "taskmanager.numberOfTaskSlots: 1, and more TaskManagers",
        )
    yield from _python(jars, settings)
    retained = int(settings.get(_RETAINED, "1"))
    if retained < _LEAST_RETAINED:
        yield problem(
            "cluster",
            f"{_RETAINED} is {retained}: where the newest checkpoint is damaged there is no older one to go on from",
            f"set it to {_LEAST_RETAINED} in the JobManager's own configuration; what a job says of it is not heard",
        )
    else:
        yield ok("cluster", f"{retained} checkpoints are kept")


def _slots(overview: Overview, parallelism: int, *, runs: bool) -> Finding:
    said = f"{overview.slots_available} of {overview.slots_total} slots are free"
    if runs:
        return ok("cluster", f"{said}, the job runs")
    if overview.slots_available < parallelism:
        mend = "start more TaskManagers, stop another job, or set stream.parallelism lower"
        return Finding("cluster", "warning", f"{said}, the job wants {parallelism}", mend)
    return ok("cluster", f"{said}, the job wants {parallelism}")


def _python(jars: list[str], settings: dict[str, str]) -> Iterator[Finding]:
    found = [name for name in jars if name.startswith("flink-python")]
    is_first = "pemja." in settings.get(_PARENT_FIRST, "")
    if not found:
        yield problem(
            "cluster",
            "no flink-python jar in the JobManager's class path: the second job in a TaskManager would find no Python",
            "link opt/flink-python-*.jar of the pip package into lib, on every server",
        )
    if not is_first:
        yield problem(
            "cluster",
            f"{_PARENT_FIRST} does not name pemja.: the second job in a TaskManager would find no Python",
            f"{_PARENT_FIRST}: pemja.",
        )
    if found and is_first:
        yield ok("cluster", f"{found[0]} is in the class path, pemja. is loaded by the parent")
