"""What a server holds while it runs: one model at a time, the store, the threads; and how a new bundle takes over.

The new bundle is opened, compared with the store and warmed beside the old one. Then one assignment makes it the model;
requests that were begun hold the old one to their end. One that cannot be used is refused, and the old one goes on.

Where the store's readers are sent to another store (uic/store/moved.py), that one and the bundle for it take over in the same
way, both by the one assignment.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from serving.answer import Memories, Observe, answer, founds
from serving.metrics import ServeMetrics
from serving.model import Model
from serving.pool import Pool
from serving.wire import Refused, ScoreAnswer, ScoreRequest, write_answer
from uic.bundle import Bundle
from uic.errors import BundleError, StoreMismatch, UicError
from uic.registry import Registry
from uic.store import moved
from uic.store.contract import StoreIdentity
from uic.store.opening import check_identity
from uic.store.place import redis_url

log = logging.getLogger("uic.serve")
_TRY_AGAIN_S = 5.0
Answering = Callable[[ScoreRequest, Model, Memories, Observe], ScoreAnswer]


class ServedStore(Memories, Protocol):
    """What of a store on disk the server needs."""

    @property
    def identity(self) -> StoreIdentity: ...

    def refresh(self) -> None: ...

    def close(self) -> None: ...


class _Serving(NamedTuple):
    """What a request is answered from; of at most `short` candidates, it is answered by the event loop itself."""

    model: Model
    store: ServedStore
    short: int


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one request may ask for, and how long it may take; and how much may be under way.

    `short`: requests of at most so many candidates are scored by the event loop itself, unless a network is in front of the
    store (serving/pool.py).
    """

    body_bytes: int = 1 << 20
    users: int = 64
    candidates: int = 5000
    time_s: float = 1.0
    threads: int = 2
    waiting: int = 32
    short: int = 500


class Service:
    """The state of a server. `pointer` is where its bundle is, or a link that is set to another one.

    `store` stays the caller's to close; `open_store` opens the one that its readers are sent to. `answering` is what is
    done for a request: another way of scoring can be compared within the same server (benchmarks/rtp/dien_server.py).
    """

    def __init__(
        self,
        pointer: Path,
        store: ServedStore,
        store_path: Path,
        limits: Limits,
        open_store: Callable[[Path], ServedStore] | None = None,
        answering: Answering = answer,
    ) -> None:
        self.pointer = pointer
        self.store = store
        self.limits = limits
        self._open_store = open_store
        self._answering = answering
        self._opened: list[ServedStore] = []
        self.metrics = ServeMetrics()
        self.is_ready = False
        self.is_draining = False
        self._store_path = store_path
        self._pool = Pool(threads=limits.threads, waiting=limits.waiting)
        self._loading = threading.Lock()
        self._serving: _Serving | None = None
        self._try_at = 0.0
        self._caught_up = time.monotonic()
        self.metrics.watch(inside=lambda: float(self._pool.inside), behind_s=lambda: time.monotonic() - self._caught_up)

    @property
    def model(self) -> Model:
        return self._now().model

    def _now(self) -> _Serving:
        if self._serving is None:
            raise Refused(503, "starting", "the bundle is not ready yet", **{"retry-after": "1"})
        return self._serving

    def load(self) -> tuple[int, int]:
        """Take what the pointer points to now, and the store that readers are sent to.

        Returns the bundle's version and the one before (the same where nothing changed). Raises UicError where it cannot be
        used; everything is then as it was.
        """
        with self._loading:
            before = None if self._serving is None else self._serving.model
            store, path = self.store, self._store_path
            pair = None if self._open_store is None else moved.newest(path)
            try:
                if pair is not None and self._open_store is not None:
                    store, path = self._open_store(pair.store), pair.store
                bundle = self._bundle(store, path, pair)
                if before is not None and pair is None and before.bundle.manifest == bundle.manifest:
                    return before.version, before.version
                model = Model(bundle)
                model.warm(most_users=self.limits.users, most_candidates=self.limits.candidates)
            except Exception as error:
                self._refuse(error)
                if store is not self.store:
                    store.close()
                if isinstance(error, UicError):
                    raise
                raise BundleError(f"{self.pointer}: the bundle cannot be used: {error!r}") from error
            if store is not self.store:
                # The one before is read by requests that were begun; it is closed in the end.
                self._opened.append(store)
                self.store, self._store_path = store, path
                log.info("store", extra={"facts": {"path": str(path)}})
            self.metrics.bundle(bundle.manifest)
            self._serving = _Serving(model, store, self.limits.short if redis_url(path) is None else 0)
            self.is_ready = True
            log.info("bundle", extra={"facts": {"bundle_version": model.version, "path": str(bundle.path)}})
            return model.version, (before or model).version

    def _bundle(self, store: ServedStore, path: Path, pair: moved.Pair | None) -> Bundle:
        """What the pointer points to; where that does not fit the store that readers are sent to, the bundle named with it."""
        bundle = Bundle.open(self.pointer.resolve())
        try:
            check_identity(store.identity, bundle.identity, path)
        except StoreMismatch:
            if pair is None:
                raise
            bundle = Bundle.open(pair.bundle)
            check_identity(store.identity, bundle.identity, path)
        return bundle

    def _follow(self) -> None:
        """Go where the store's readers are sent, if they are; what cannot be used is tried again later."""
        if self._open_store is None or time.monotonic() < self._try_at:
            return
        try:
            if moved.where_to(self._store_path) is not None:
                self.load()
        except UicError:
            self._try_at = time.monotonic() + _TRY_AGAIN_S  # told in the log and the metrics; the old pair goes on

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
        self._follow()

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
            model, store, _ = self._now()
            answered = self._answering(request, model, store, self.metrics.stage)
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

        is_short = sum(len(asked.candidates) for asked in request.users) <= self._now().short
        return await self._pool.run(work, until=until, time_s=self.limits.time_s, is_short=is_short)

    def close(self) -> None:
        """Wait for what is being scored; what waits is dropped."""
        self._pool.close()
        for store in self._opened:
            store.close()


async def every(seconds: float, act: Callable[[], object]) -> None:
    """Do something again and again in a thread of its own, `seconds` after it was done last, until this task is cancelled."""
    while True:
        await asyncio.sleep(seconds)
        await asyncio.to_thread(act)
