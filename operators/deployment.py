"""The model that an update operator applies, and the one that is made ready beside it.

A bundle comes in two steps, each a message of operators/control.py. `prepare`: a thread fetches it from the registry, checks
every digest, tries its step and asks uic/promotion.py whether it may follow; batches go on meanwhile. `promote`: between two
batches the ready model takes the place of the active one. A bundle that fails its checks is refused, and the active goes on.

What was promoted is the operator's broadcast state. After a failure it is opened before the first batch; events since that
checkpoint are applied again, with the model that was active in it, until the replayed `promote` comes by.
"""

import logging
import threading
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from operators import bundle_status, control
from operators.bundle_status import Answer, BundleStatus
from operators.metrics import StreamMetrics
from operators.settings import UpdateSettings
from uic.bundle import Bundle
from uic.errors import BadInput, BundleError, EnvironmentProblem
from uic.promotion import Standing, refusals
from uic.registry import Registry, digest_of
from uic.runtime import OnnxStep
from uic.update import StepFunction, Updater
from uic.vocabulary import UNKNOWN_ROW

CACHE = "bundles"
_TRIED_B = (1, 64)
_log = logging.getLogger(__name__)


class Model(NamedTuple):
    """A bundle opened, its step tried."""

    bundle: Bundle
    digest: str
    updater: Updater

    @property
    def accepted(self) -> frozenset[str]:
        return self.bundle.accepted


class Deployment:
    """One subtask's models. `take` is called between two batches; the thread that prepares touches nothing of the active."""

    def __init__(
        self, settings: UpdateSettings, *, saved: bytes = b"", subtask: int = 0, metrics: StreamMetrics | None = None
    ) -> None:
        self._settings = settings
        self._job_dir = Path(settings.job_dir)
        self._subtask = subtask
        self._metrics = metrics
        self._candidate: _Candidate | None = None
        self.model = self._promoted(saved) or self._first()
        self._show()

    def restore(self, saved: bytes) -> None:
        """Go over to what was promoted before the failure, where that is known only after the opening."""
        promoted = self._promoted(saved)
        if promoted is not None:
            self.model = promoted
            self._show()

    def take(self, data: bytes) -> bytes:
        """Heed a control message; returns what is to be kept as state from now on, nothing where that stays as it is.

        Raises EnvironmentProblem where a bundle that was to be promoted cannot be fetched: all others may have it by now.
        """
        try:
            message = control.read(data)
        except BadInput as error:
            _log.warning("passed over: %s", error)
            return b""
        if message.to != self._settings.address:
            return b""
        if self.model.digest == message.digest:
            self._show("promoted" if isinstance(message, control.Promote) else "ready", message)
            return b""
        candidate = self._candidate
        if candidate is None or candidate.message.digest != message.digest or candidate.has_failed:
            candidate = self._candidate = _Candidate(self, message)
        if not isinstance(message, control.Promote):
            candidate.answer(message)
            return b""
        try:
            self.model = candidate.result()
        except (EnvironmentProblem, OSError):
            raise
        except Exception as error:
            self._refuse(message, error)
            return b""
        self._candidate = None
        self._show("promoted", message)
        return control.to_json(message)

    def _promoted(self, saved: bytes) -> Model | None:
        if not saved:
            return None
        message = control.read(saved)
        # Otherwise it was promoted in an earlier run: who starts a job names the bundle that it goes on with.
        return self._fetch(message) if message.to == self._settings.address else None

    def _first(self) -> Model:
        path = Path(self._settings.bundle)
        return self._open(Bundle.open(path), digest_of(path))

    def _fetch(self, message: control.Message) -> Model:
        registry = Registry(message.url)
        entry = registry.get(message.version)
        if entry.digest != message.digest:
            raise BundleError(
                f"{message.url}: bundle {message.version}: expected digest {message.digest[:16]}..., got {entry.digest[:16]}..."
            )
        return self._open(registry.fetch(entry, self._job_dir / CACHE), entry.digest)

    def _open(self, bundle: Bundle, digest: str) -> Model:
        step = OnnxStep(bundle)
        updater = bundle.updater(step, self._settings.rules, generation=self._settings.generation)
        return Model(bundle, digest, updater)

    def _successor(self, message: control.Message) -> Model:
        """The bundle of a message, ready; raises BundleError where it may not follow the active one or does not work."""
        active = self.model
        model = self._fetch(message)
        if reasons := refusals(Standing.of(active.bundle), Standing.of(model.bundle)):
            raise BundleError(" ".join(reasons))
        try_step(model.bundle, model.updater.step)
        return model

    def _refuse(self, message: control.Message, error: Exception) -> None:
        why = str(error) if isinstance(error, BundleError | BadInput) else f"{type(error).__name__}: {error}"
        _log.warning("bundle %d is refused, %d goes on: %s", message.version, self.model.bundle.manifest.version, why)
        if self._metrics is not None:
            self._metrics.bundle_refused()
        self._show("refused", message, why)

    def _show(self, answer: Answer = "", message: control.Message | None = None, why: str = "") -> None:
        """Tell `uic bundle` and Prometheus which bundle is active, and what is said to the message."""
        manifest = self.model.bundle.manifest
        if self._metrics is not None:
            self._metrics.bundle(self._subtask, manifest.version, manifest.training_cut_off_ms)
        if self._settings.address == "":
            return
        status = BundleStatus(
            address=self._settings.address,
            run=self._settings.run,
            subtask=self._subtask,
            version=manifest.version,
            digest=self.model.digest,
            training_cut_off_ms=manifest.training_cut_off_ms,
            answer=answer,
            answers_ms=0 if message is None else message.issued_ms,
            why=why,
        )
        with suppress(OSError):  # a full disk must not stop the stream
            bundle_status.write(self._job_dir, status)


class _Candidate:
    """A model on its way, in a thread of its own."""

    def __init__(self, deployment: Deployment, message: control.Message) -> None:
        self.message = message
        self._deployment = deployment
        self._model: Model | None = None
        self._error: Exception | None = None
        self._lock = threading.Lock()
        self._asked: control.Message | None = None
        self._thread = threading.Thread(target=self._make, name="prepare bundle", daemon=True)
        self._thread.start()

    @property
    def has_failed(self) -> bool:
        return self._error is not None

    def answer(self, message: control.Message) -> None:
        """Say whether it is ready: now, or when that is known."""
        with self._lock:
            self._asked = message
            if self._model is not None or self._error is not None:
                self._say(message)

    def result(self) -> Model:
        """Wait for it; raises what went wrong."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        assert self._model is not None
        return self._model

    def _make(self) -> None:
        model, error = None, None
        try:
            model = self._deployment._successor(self.message)
        except Exception as caught:
            error = caught
        with self._lock:
            self._model, self._error = model, error
            if self._asked is not None:
                self._say(self._asked)

    def _say(self, message: control.Message) -> None:
        if self._error is None:
            self._deployment._show("ready", message)
        else:
            self._deployment._refuse(message, self._error)


def try_step(bundle: Bundle, step: StepFunction) -> None:
    """Take a step for one user and for many, which also warms the session; raises BundleError where it is no step."""
    initial_F = bundle.initial.state_F
    for users in _TRIED_B:
        states_BF = np.tile(initial_F, (users, 1))
        rows_B = np.full(users, UNKNOWN_ROW, dtype=np.int64)
        try:
            after_BF = step(states_BF, rows_B, rows_B)
        except Exception as error:  # onnxruntime raises its own family of exceptions, one a cause
            raise BundleError(f"bundle {bundle.manifest.version}: its step cannot be taken: {error}") from error
        if after_BF.shape != states_BF.shape or after_BF.dtype != np.float32:
            raise BundleError(
                f"bundle {bundle.manifest.version}: its step makes {after_BF.dtype} {list(after_BF.shape)} of float32 "
                f"{list(states_BF.shape)}"
            )
        if not np.isfinite(after_BF).all():
            raise BundleError(f"bundle {bundle.manifest.version}: its step makes numbers that are not finite")
