"""Is this machine as the project needs it? Java, Python packages, the jars, the disk."""

import re
import shutil
import tomllib
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import jobs
from jobs.doctor.finding import Finding, ok, problem
from jobs.folder import LEAST_FREE_BYTES
from jobs.jars import job_jars
from jobs.java import find_java
from uic.errors import EnvironmentProblem

_NAME = "user-interest-center"
# Their versions change what is stored, sent or understood; of others the requirements are enough.
_PINNED = (
    "apache-flink",
    "confluent-kafka",
    "google-crc32c",
    "msgspec",
    "numpy",
    "onnxruntime",
    "pemja",
    "protobuf",
    "py4j",
    "rocksdict",
)
_MOST_SHOWN = 5
_CHECKOUT = Path(jobs.__file__).parents[1]


def check_java(environment: dict[str, str]) -> Iterator[Finding]:
    """Java 17, which Flink here needs."""
    try:
        java = find_java(environment)
    except EnvironmentProblem as error:
        yield problem("java", error)
        return
    yield ok("java", f"Java 17: {java.executable}")
    if java.note is not None:
        yield Finding("java", "warning", java.note, "set JAVA_HOME to a Java 17, so that every shell takes the same")


def check_packages(checkout: Path = _CHECKOUT) -> Iterator[Finding]:
    """Every package that is installed is one that the project asks for, and those that matter are the lock's."""
    from packaging.requirements import Requirement

    wrong, missing = [], []
    for text in requires(_NAME) or []:
        requirement = Requirement(text)
        extra = re.search(r"extra == '(\w+)'", text)
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            if extra is None or extra[1] == "stream":
                missing.append(requirement.name)
            continue
        if found not in requirement.specifier:
            wrong.append(f"{requirement.name} {found}, asked for {requirement.specifier}")
    if missing:
        yield problem("packages", f"not installed: {', '.join(missing)}", f"pip install '{_NAME}[stream]'")
    if wrong:
        yield problem("packages", "; ".join(wrong), f"pip install '{_NAME}[stream]', or `make setup` in the checkout")
    locked = _locked(checkout / "uv.lock")
    other = [f"{name} {version(name)}, locked {locked[name]}" for name in _PINNED if _differs(name, locked)]
    if other:
        yield Finding("packages", "warning", f"other versions than tested: {'; '.join(other)}", "`make setup` in the checkout")
    if not (missing or wrong or other):
        against = "uv.lock" if locked else "the project's requirements"
        yield ok("packages", f"as in {against}: Flink {version('apache-flink')}, numpy {version('numpy')}")


def check_jars(folder: Path, checkout: Path = _CHECKOUT) -> Iterator[Finding]:
    """The jars that a job carries: there, of the versions in the pom, not older than their sources."""
    try:
        jars = job_jars(folder)
    except EnvironmentProblem as error:
        yield Finding("jars", "absent", str(error), "only a job on a cluster and the batched plan need them")
        return
    wanted = _pom(checkout / "infra" / "pom.xml")
    wrong = [
        f"{artefact}: {found}, the pom says {wanted[key]}"
        for artefact, key in (("flink-connector-kafka", "connector.version"), ("kafka-clients", "kafka.version"))
        if key in wanted and (found := _version_of(jars, artefact)) != wanted[key]
    ]
    if wrong:
        yield problem("jars", "; ".join(wrong), "`make jars` fetches them anew")
    ours = next(jar for jar in jars if jar.name == "uic-flink.jar")
    sources = [path for path in (checkout / "operators" / "java").rglob("*") if path.suffix in (".java", ".xml")]
    newer = sorted(path.name for path in sources if path.stat().st_mtime > ours.stat().st_mtime and "target" not in path.parts)
    if newer:
        yield Finding("jars", "warning", f"{ours} is older than {', '.join(newer[:_MOST_SHOWN])}", "`make jars` builds it anew")
    if not wrong and not newer:
        kafka = f"connector {_version_of(jars, 'flink-connector-kafka')}, client {_version_of(jars, 'kafka-clients')}"
        yield ok("jars", f"{len(jars)} in {ours.parent}: Kafka {kafka}")


def check_disk(path: Path) -> Iterator[Finding]:
    """Room for checkpoints where the job's folder is or will be."""
    there = next(each for each in (path.absolute(), *path.absolute().parents) if each.exists())
    free = shutil.disk_usage(there).free
    if free < LEAST_FREE_BYTES:
        yield problem(
            "disk", f"{there}: {free >> 20} MB are free, a job needs at least {LEAST_FREE_BYTES >> 20} MB", "free space"
        )
    else:
        yield ok("disk", f"{there}: {free / 1e9:,.1f} GB are free")


def _differs(name: str, locked: Mapping[str, str]) -> bool:
    try:
        return name in locked and version(name) != locked[name]
    except PackageNotFoundError:
        return False


def _locked(path: Path) -> dict[str, str]:
    """The versions in uv.lock; none where this code does not run from a checkout."""
    try:
        content = tomllib.loads(path.read_text())
    except OSError:
        return {}
    return {entry["name"]: entry["version"] for entry in content["package"] if "version" in entry}


def _pom(path: Path) -> dict[str, str]:
    """The versions that a pom names as its properties."""
    try:
        text = path.read_text()
    except OSError:
        return {}
    return dict(re.findall(r"<([\w.]+\.version)>([^<]+)</", text))


def _version_of(jars: list[Path], artefact: str) -> str | None:
    """The version in a jar's name.

    >>> _version_of([Path("kafka-clients-4.2.0.jar")], "kafka-clients")
    '4.2.0'
    """
    names = [jar.stem.removeprefix(f"{artefact}-") for jar in jars if re.fullmatch(rf"{re.escape(artefact)}-\d.*", jar.stem)]
    return names[0] if names else None
