"""A Flink cluster as its JobManager's REST interface shows it: asked with patience, told in our words."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from jobs.cluster.facts import Checkpoints, Failure, Job, JobDetails, Overview, innermost
from uic.errors import BadInput, EnvironmentProblem, JobError

_POLL_S = 0.2
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_SHOWN = 300
_MOST_METRICS = 20


class UnknownJob(JobError):
    """The cluster has no job of this id: it ended before the cluster was started anew, or runs elsewhere."""


class Cluster:
    """A Flink cluster at a REST address. Nothing is kept between two questions but the connection.

    Raises EnvironmentProblem where nobody answers, JobError where the answer is a refusal.
    """

    def __init__(self, url: str, *, timeout_s: float = 10.0) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise BadInput(f"cluster.url: expected an address such as http://localhost:8081, got {url!r}")
        self.url = url.rstrip("/")
        self._timeout_s = timeout_s
        self._session = requests.Session()
        # A proxy of this machine's environment is not for its own addresses.
        self._session.trust_env = parts.hostname not in _LOOPBACK
        # Only questions are repeated: a stop that was heard twice would be two.
        retry = Retry(total=3, backoff_factor=0.3, status_forcelist=(502, 503, 504), allowed_methods=("GET",))
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(max_retries=retry))

    def overview(self) -> Overview:
        return Overview.read(self._ask("GET", "/overview"))

    def configuration(self) -> dict[str, str]:
        """The JobManager's settings; Flink hides the secret ones."""
        return {entry["key"]: entry["value"] for entry in self._ask("GET", "/jobmanager/config")}

    def class_path(self) -> list[str]:
        """The names of the jars in the JobManager's class path."""
        content = self._ask("GET", "/jobmanager/environment")
        return [entry.rsplit("/", 1)[-1] for entry in content["classpath"]]

    def jobs(self) -> list[Job]:
        """All jobs the cluster remembers, the latest first."""
        found = [Job.read(each) for each in self._ask("GET", "/jobs/overview")["jobs"]]
        return sorted(found, key=lambda job: job.started_ms, reverse=True)

    def job(self, job_id: str) -> JobDetails:
        """Raises UnknownJob where the cluster has none of this id."""
        return JobDetails.read(self._ask("GET", f"/jobs/{job_id}"))

    def is_alive(self, job_id: str) -> bool:
        """Whether the cluster has this job and it has not ended."""
        try:
            return not self.job(job_id).is_over
        except UnknownJob:
            return False

    def checkpoints(self, job_id: str) -> Checkpoints:
        return Checkpoints.read(self._ask("GET", f"/jobs/{job_id}/checkpoints"))

    def last_failure(self, job_id: str) -> Failure | None:
        """The newest failure that the job has had, also where it has recovered from it."""
        return Failure.read(self._ask("GET", f"/jobs/{job_id}/exceptions"))

    def restarts(self, job_id: str) -> int | None:
        """How often the job was restarted on this cluster; None where nobody counts any more, since it has ended."""
        found = self._metrics(f"/jobs/{job_id}/metrics", {"get": "numRestarts"})
        return int(float(found["numRestarts"])) if "numRestarts" in found else None

    def vertex_sum(self, job_id: str, vertex_id: str, metric: str) -> float | None:
        """A metric of one step's subtasks, added up; None where it is not there. Flink renews it every few seconds."""
        found = self._ask("GET", f"/jobs/{job_id}/vertices/{vertex_id}/subtasks/metrics", {"get": metric, "agg": "sum"})
        return float(found[0]["sum"]) if found else None

    def subtask_metrics(self, job_id: str, vertex_id: str, words: str) -> dict[str, str]:
        """The metrics of one step whose name contains these words, by `subtask.name`."""
        path = f"/jobs/{job_id}/vertices/{vertex_id}/metrics"
        names = [each["id"] for each in self._ask("GET", path) if words in each["id"]]
        found: dict[str, str] = {}
        # Flink refuses a line of more than 4,096 bytes.
        for start in range(0, len(names), _MOST_METRICS):
            found |= self._metrics(path, {"get": ",".join(names[start : start + _MOST_METRICS])})
        return found

    def workers(self, job_id: str) -> set[str]:
        """The TaskManagers on which any task of the job runs now, by their resource ids."""
        found = set()
        for vertex in self.job(job_id).vertices:
            for subtask in self._ask("GET", f"/jobs/{job_id}/vertices/{vertex.id}")["subtasks"]:
                if subtask["status"] == "RUNNING":
                    found.add(subtask["taskmanager-id"])
        return found

    def wait_until_running(self, job_id: str, timeout_s: float) -> None:
        """Wait until every task of the job runs; raises JobError with the cause where it fails or does not come so far."""
        give_up_at = time.monotonic() + timeout_s
        while True:
            job = self.job(job_id)
            if job.state == "RUNNING" and all(vertex.state == "RUNNING" for vertex in job.vertices):
                return
            if job.is_over:
                raise JobError(f"{self.url}: job {job_id} is {job.state}{self._because(job_id)}")
            if time.monotonic() > give_up_at:
                waiting = ", ".join(f"{vertex.name} {vertex.state}" for vertex in job.vertices if vertex.state != "RUNNING")
                raise JobError(
                    f"{self.url}: job {job_id} does not run after {timeout_s:.0f} s: it is {job.state}, "
                    f"{waiting or 'without tasks'}{self._because(job_id)}"
                )
            time.sleep(_POLL_S)

    def savepoint(
        self,
        job_id: str,
        target: Path,
        *,
        format_type: Literal["CANONICAL", "NATIVE"] = "CANONICAL",
        timeout_s: float = 600.0,
        progress: Callable[[float], None] = lambda _: None,
    ) -> Path:
        """Take a savepoint below `target` and wait for it; `progress` is called with the seconds it has taken so far."""
        asked = {"target-directory": target.absolute().as_uri(), "cancel-job": False, "formatType": format_type}
        return self._await_savepoint(job_id, "savepoints", asked, timeout_s, progress)

    def stop(
        self,
        job_id: str,
        target: Path,
        *,
        drain: bool = False,
        format_type: Literal["CANONICAL", "NATIVE"] = "CANONICAL",
        timeout_s: float = 600.0,
        progress: Callable[[float], None] = lambda _: None,
    ) -> Path:
        """Stop the job in order, all of its state in a savepoint below `target`; returns when it has ended.

        Not drained, it can be gone on with. Only canonical savepoints can be read by another backend.
        """
        asked = {"targetDirectory": target.absolute().as_uri(), "drain": drain, "formatType": format_type}
        path = self._await_savepoint(job_id, "stop", asked, timeout_s, progress)
        self._await_end(job_id, timeout_s)
        return path

    def cancel(self, job_id: str, *, timeout_s: float = 60.0) -> None:
        """End the job where it stands; its retained checkpoints stay. Returns when it has ended."""
        self._ask("PATCH", f"/jobs/{job_id}", {"mode": "cancel"})
        self._await_end(job_id, timeout_s)

    def _await_savepoint(
        self, job_id: str, kind: str, asked: Mapping[str, object], timeout_s: float, progress: Callable[[float], None]
    ) -> Path:
        started = time.monotonic()
        request = self._ask("POST", f"/jobs/{job_id}/{kind}", json=asked)["request-id"]
        while True:
            answer = self._ask("GET", f"/jobs/{job_id}/savepoints/{request}")
            if answer["status"]["id"] == "COMPLETED":
                break
            seconds = time.monotonic() - started
            if seconds > timeout_s:
                raise JobError(
                    f"{self.url}: the savepoint of job {job_id} was not done after {timeout_s:.0f} s; it may still complete. "
                    "`uic job status` shows how long checkpoints take"
                )
            progress(seconds)
            time.sleep(_POLL_S)
        operation = answer["operation"]
        if "location" not in operation:
            cause = _innermost(operation.get("failure-cause", {}).get("stack-trace", ""))
            raise JobError(f"{self.url}: job {job_id} made no savepoint: {cause}")
        return Path(operation["location"].removeprefix("file:"))

    def _await_end(self, job_id: str, timeout_s: float) -> None:
        give_up_at = time.monotonic() + timeout_s
        while not (job := self.job(job_id)).is_over:
            if time.monotonic() > give_up_at:
                raise JobError(f"{self.url}: job {job_id} has not ended after {timeout_s:.0f} s, it is {job.state}")
            time.sleep(_POLL_S)
        if job.state == "FAILED":
            raise JobError(f"{self.url}: job {job_id} has failed while it was stopped{self._because(job_id)}")

    def _because(self, job_id: str) -> str:
        failure = self.last_failure(job_id)
        return "" if failure is None else f": {failure.cause}"

    def _metrics(self, path: str, params: dict[str, str]) -> dict[str, str]:
        return {each["id"]: each["value"] for each in self._ask("GET", path, params) if "value" in each}

    def _ask(
        self, method: str, path: str, params: dict[str, str] | None = None, *, json: Mapping[str, object] | None = None
    ) -> Any:  # whatever JSON the answer is
        try:
            response = self._session.request(method, self.url + path, params=params, json=json, timeout=self._timeout_s)
        except requests.RequestException as error:
            raise EnvironmentProblem(
                f"{self.url}: no Flink cluster answers: {_reason(error)}. `uic dev up` starts one on this machine; "
                "set cluster.url to the REST address of another"
            ) from error
        try:
            content = response.json() if response.content else {}
        except requests.JSONDecodeError as error:
            raise EnvironmentProblem(
                f"{self.url}{path}: expected Flink's REST interface, got {response.status_code} {response.text[:_SHOWN]!r}"
            ) from error
        if response.ok:
            return content
        said = _innermost("\n".join(content.get("errors", [])) if isinstance(content, dict) else "") or response.reason
        if response.status_code == 404 and path.startswith("/jobs/"):
            raise UnknownJob(
                f"{self.url}: no job {path.split('/')[2]} there ({said}). `uic job list` shows those that are; "
                "after the end of its JobManager, `uic job resume` starts a job again"
            )
        raise JobError(f"{self.url}{path}: {response.status_code}: {said}")


def _reason(error: BaseException) -> str:
    """The innermost reason, which requests and urllib3 wrap several times.

    >>> _reason(requests.ConnectionError(OSError("Connection aborted.", OSError(104, "Connection reset by peer"))))
    '[Errno 104] Connection reset by peer'
    """
    inner = getattr(error, "reason", None)
    causes = [inner] if isinstance(inner, BaseException) else [each for each in error.args if isinstance(each, BaseException)]
    if causes:
        return _reason(causes[-1])
    text = str(error)
    return text[max(text.find("[Errno "), 0) :]


def _innermost(errors: str) -> str:
    """What Flink's error texts, stack traces among them, come down to."""
    return innermost(errors)[:_SHOWN]
