"""What a server holds while it runs: one model at a time, the store, the threads; and how a new bundle takes over.

The new bundle is opened, compared with the store and warmed beside the old one. Then one assignment makes it the model;
requests that were begun hold the old one to their end. One that cannot be used is refused, and the old one goes on.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from serving.answer import Memories, answer, founds
from serving.metrics import ServeMetrics
from serving.model import Model
from serving.pool import Pool
from serving.wire import Refused, ScoreRequest, write_answer
from uic.bundle import Bundle
from uic.errors import BundleError, UicError
from uic.registry import Registry
from uic.store.contract import StoreIdentity
from uic.store.opening import check_identity

log = logging.getLogger("uic.serve")


class ServedStore(Memories, Protocol):
    """What of a store on disk the server needs."""

    @property
    def identity(self) -> StoreIdentity: ...

    def refresh(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one request may ask for, and how long it may take; and how much may be under way."""

    body_bytes: int = 1 << 20
    users: int = 64
    candidates: int = 5000
    time_s: float = 1.0
    threads: int = 2
    waiting: int = 32


class Service:
    """The state of a server. `pointer` is where its bundle is, or a link that is set to another one."""

    def __init__(self, pointer: Path, store: ServedStore, store_path: Path, limits: Limits) -> None:
        self.pointer = pointer
        self.store = store
        self.limits = limits
        self.metrics = ServeMetrics()
        self.is_ready = False
        self.is_draining = False
        self._store_path = store_path
        self._pool = Pool(threads=limits.threads, waiting=limits.waiting)
        self._loading = threading.Lock()
        self._model: Model | None = None
        self._caught_up = time.monotonic()
        self.metrics.watch(inside=lambda: float(self._pool.inside), behind_s=lambda: time.monotonic() - self._caught_up)

    @property
    def model(self) -> Model:
        if self._model is None:
            raise Refused(503, "starting", "the bundle is not ready yet", **{"retry-after": "1"})
        return self._model

    def load(self) -> tuple[int, int]:
        """Take what the pointer points to now; returns its version and the one before (the same where nothing changed).

        Raises UicError where it cannot be used; the model is then what it was.
        """
        with self._loading:
            before = self._model
            try:
                bundle = Bundle.open(self.pointer.resolve())
                check_identity(self.store.identity, bundle.identity, self._store_path)
                if before is not None and before.bundle.manifest == bundle.manifest:
                    return before.version, before.version
                model = Model(bundle)
                model.warm(most_users=self.limits.users, most_candidates=self.limits.candidates)
            except UicError as error:
                self._refuse(error)
                raise
            except Exception as error:
                self._refuse(error)
                raise BundleError(f"{self.pointer}: the bundle cannot be used: {error!r}") from error
            self.metrics.bundle(bundle.manifest)
            self._model = model
            self.is_ready = True
            log.info("bundle", extra={"facts": {"bundle_version": model.version, "path": str(bundle.path)}})
            return model.version, (before or model).version

    def _refuse(self, error: Exception) -> None:
        self.metrics.bundle_refused()
        log.error("bundle refused", extra={"facts": {"path": str(self.pointer), "why": f"{type(error).__name__}: {error}"}})

    def refresh(self) -> None:
        """See what the store's writers have written since."""
        try:
            self.store.refresh()
        except Exception as error:  # whatever the store's client raises: what is known goes on being served
            log.error("store", extra={"facts": {"why": f"{type(error).__name__}: {error}"}})
        else:
            self._caught_up = time.monotonic()

    def learn(self, registry: Registry) -> None:
        """Of every bundle in the registry, where its training ends: what skew is measured by."""
        try:
            for entry in registry.entries():
                if not self.metrics.knows(entry.version):
                    self.metrics.know(entry.version, registry.manifest(entry).training_cut_off_ms)
        except UicError as error:
            log.warning("registry", extra={"facts": {"why": f"{type(error).__name__}: {error}"}})

    def check_room(self) -> None:
        """Raise Refused 503 where a request would be turned away: before its body is read."""
        self._pool.check_room()

    async def score(self, request: ScoreRequest, until: float) -> tuple[bytes, dict[str, Any]]:
        """The bytes of the answer, and facts for the log. `until`, of the loop's clock: when nobody waits any more."""
        submitted = time.perf_counter()

        def work() -> tuple[bytes, dict[str, Any]]:
            began = time.perf_counter()
            self.metrics.stage("wait", began - submitted)
            answered = answer(request, self.model, self.store, self.metrics.stage)
            scored = time.perf_counter()
            data = write_answer(answered)
            self.metrics.stage("answer", time.perf_counter() - scored)
            self.metrics.answered(answered, time.time_ns() // 1_000_000)
            return data, {
                "users": len(answered.users),
                "candidates": sum(len(user.probabilities) for user in answered.users),
                "bundle_version": answered.bundle_version,
                "found": founds(answered.users),
            }

        return await self._pool.run(work, until=until, time_s=self.limits.time_s)

    def close(self) -> None:
        """Wait for what is being scored; what waits is dropped."""
        self._pool.close()


async def every(seconds: float, act: Callable[[], object]) -> None:
    """Do something again and again in a thread of its own, `seconds` after it was done last, until this task is cancelled."""
    while True:
        await asyncio.sleep(seconds)
        await asyncio.to_thread(act)
