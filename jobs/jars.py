"""Where the jars are that `make jars` builds: those a job carries beyond the Flink distribution, and a Kafka broker."""

from pathlib import Path

import jobs
from uic.errors import EnvironmentProblem

JOB_JARS = Path("infra/jars/job")
BROKER_JARS = Path("infra/jars/broker")
_OURS = "uic-flink.jar"
_KAFKA = "flink-connector-kafka-*.jar"
_BROKER = "kafka_*.jar"


def job_jars(folder: Path = JOB_JARS) -> list[Path]:
    """The jars of the batched plan and of Kafka for Flink; raises EnvironmentProblem where they are not built."""
    return _jars(folder, (_OURS, _KAFKA))


def has_job_jars(folder: Path = JOB_JARS) -> bool:
    """Whether `job_jars` would find them."""
    try:
        job_jars(folder)
    except EnvironmentProblem:
        return False
    return True


def broker_jars(folder: Path = BROKER_JARS) -> list[Path]:
    """The class path of a Kafka broker; raises EnvironmentProblem where it is not there."""
    return _jars(folder, (_BROKER,))


def _jars(folder: Path, wanted: tuple[str, ...]) -> list[Path]:
    found = _find(folder)
    for pattern in wanted:
        if not any(found.glob(pattern)):
            raise EnvironmentProblem(f"{folder}: expected {pattern} there, found none; `make jars` in the checkout builds it")
    return sorted(path.absolute() for path in found.glob("*.jar"))


def _find(folder: Path) -> Path:
    """The folder as named, else the one of that name in the checkout this code runs from."""
    in_checkout = Path(jobs.__file__).parents[1] / folder
    return in_checkout if not folder.is_dir() and in_checkout.is_dir() else folder
