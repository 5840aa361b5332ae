"""Requests at moments that were drawn before, whatever the answers do: open-loop arrivals over kept connections.

A latency runs from the moment a request was to be sent: one that had to wait for a slow server, or for this program, has waited
(no coordinated omission). One thread, `select` and whole requests as bytes: asyncio's timers are a millisecond coarse, and the
server needs the cores. Scoring changes nothing, so a request that a server did not take may be given to the next one, as a
proxy in front of several would.
"""

import dataclasses
import gc
import select
import socket
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
HOST = "127.0.0.1"
_LOST_S = 10.0  # whoever has no answer by then has none
_DOWN_S = 0.05
_READ_BYTES = 1 << 16
NO_ANSWER = 0
_MOST_A_SECOND = 10_000


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Of each request: when it was to be sent, how long its answer took from then, its status (0: none came), and its kind.

    late_us     how long after its moment it left this program
    retried     requests that were given to another server
    cpu_s       what this program has used
    """

    due_s: Float64
    latency_us: Int64
    status: Int64
    kind: Int64
    late_us: Int64
    retried: int
    seconds: float
    cpu_s: float

    @property
    def is_ok(self) -> NDArray[np.bool_]:
        ok: NDArray[np.bool_] = self.status == 200
        return ok

    def only(self, keep: NDArray[np.bool_]) -> "Answers":
        """Some of the requests."""
        kept = {field.name: getattr(self, field.name)[keep] for field in dataclasses.fields(self)[:5]}
        return dataclasses.replace(self, **kept)

    def after(self, seconds: float) -> "Answers":
        """Those due from so many seconds on: what was before was for warming up."""
        return self.only(self.due_s >= seconds)


@dataclass
class _Call:
    number: int
    tries: int = 0
    received: bytearray = field(default_factory=bytearray)
    ends_at: int | None = None


class Generator:
    """Connections to servers at these ports of the loopback interface. `bodies` are whole requests, by their kinds.

    `tries`: so many servers are tried before a request has failed.
    """

    def __init__(
        self, ports: Sequence[int], bodies: Sequence[Sequence[bytes]], *, connections: int = 200, tries: int = 1
    ) -> None:
        self._ports = ports
        self._bodies = bodies
        self._most = connections
        self._tries = tries
        self._idle: dict[int, list[socket.socket]] = {port: [] for port in ports}
        self._port_of: dict[socket.socket, int] = {}
        self._busy: dict[socket.socket, _Call] = {}
        self._down_until: dict[int, float] = dict.fromkeys(ports, 0.0)
        self._turn = 0

    def open_loop(self, *, rate: float, seconds: float, seed: int) -> Answers:
        """Poisson arrivals at this rate; the kinds of requests take turns."""
        rng = np.random.default_rng(seed)
        due_s = np.cumsum(rng.exponential(1 / rate, int(rate * seconds) + 1))
        return self._run(due_s, None)

    def closed_loop(self, *, connections: int, seconds: float) -> Answers:
        """Every connection asks again as soon as it was answered: what a server can do at most."""
        self._most = connections
        return self._run(np.zeros(int(seconds * _MOST_A_SECOND) + connections), seconds)

    def close(self) -> None:
        for connection in list(self._port_of):
            self._drop(connection)

    def _run(self, due_s: Float64, closed_s: float | None) -> Answers:
        count = len(due_s)
        self._latency_us, self._status = np.full(count, -1, np.int64), np.zeros(count, np.int64)
        late_us, kinds = np.zeros(count, np.int64), len(self._bodies)
        waiting: deque[_Call] = deque()
        self._retries, self._again = 0, waiting
        gc.collect()
        gc.disable()
        cpu, self._began, due = time.process_time(), time.perf_counter() + 0.01, 0
        self._sent_at = due_s if closed_s is None else due_s.copy()
        try:
            while True:
                now = time.perf_counter() - self._began
                if closed_s is not None:
                    if now < closed_s:
                        while len(self._busy) + len(waiting) < self._most:
                            waiting.append(_Call(due))
                            self._sent_at[due] = now
                            due += 1
                else:
                    while due < count and due_s[due] <= now:
                        waiting.append(_Call(due))
                        due += 1
                while waiting:
                    connection = self._free(now)
                    if connection is None:
                        break
                    call = waiting.popleft()
                    if call.tries == 0:
                        late_us[call.number] = 1e6 * (time.perf_counter() - self._began - self._sent_at[call.number])
                    self._send(connection, call, self._bodies[call.number % kinds][call.number // kinds % len(self._bodies[0])])
                is_over = now >= closed_s if closed_s is not None else due == count
                if is_over and not self._busy and not waiting:
                    break
                until = due_s[due] if closed_s is None and due < count else now + 0.05
                pause = min(until - (time.perf_counter() - self._began), 0.01 if waiting else 1.0)
                for connection in select.select(list(self._busy), [], [], max(0.0, pause))[0]:
                    self._receive(connection)
                if is_over and now > (closed_s or due_s[-1]) + _LOST_S:
                    break
        finally:
            gc.enable()
        seconds, cpu = time.perf_counter() - self._began, time.process_time() - cpu
        for connection in list(self._busy):
            self._drop(connection)
        self._busy.clear()
        sent = slice(due)
        return Answers(
            due_s=self._sent_at[sent], latency_us=self._latency_us[sent], status=self._status[sent], late_us=late_us[sent],
            kind=np.arange(due) % kinds, retried=self._retries, seconds=seconds, cpu_s=cpu,
        )  # fmt: skip

    def _free(self, now: float) -> socket.socket | None:
        """A connection to use, a new one while there may be more. The servers take turns; those that are down do not."""
        for _ in self._ports:
            self._turn += 1
            port = self._ports[self._turn % len(self._ports)]
            if self._down_until[port] > now:
                continue
            while self._idle[port]:
                connection = self._idle[port].pop()
                if not _is_ended(connection):
                    return connection
                self._drop(connection)
            if len(self._port_of) < self._most:
                try:
                    connection = socket.create_connection((HOST, port), timeout=_LOST_S)
                except OSError:
                    self._down_until[port] = now + _DOWN_S
                    continue
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._port_of[connection] = port
                return connection
        return None

    def _send(self, connection: socket.socket, call: _Call, body: bytes) -> None:
        call.received.clear()
        call.ends_at = None
        self._busy[connection] = call
        try:
            connection.sendall(body)
        except OSError:
            self._lost(connection, NO_ANSWER)

    def _receive(self, connection: socket.socket) -> None:
        call = self._busy[connection]
        try:
            data = connection.recv(_READ_BYTES)
        except OSError:
            data = b""
        if not data:
            self._lost(connection, NO_ANSWER)
            return
        call.received += data
        if call.ends_at is None:
            head = call.received.find(b"\r\n\r\n")
            if head < 0:
                return
            at = call.received.find(b"content-length: ", 0, head) + 16
            call.ends_at = head + 4 + int(call.received[at : call.received.find(b"\r", at)])
        if len(call.received) < call.ends_at:
            return
        status, is_last = int(call.received[9:12]), b"\r\nconnection: close" in call.received
        if status == 503 and call.tries + 1 < self._tries:
            self._lost(connection, status)
            return
        del self._busy[connection]
        if is_last:
            self._drop(connection)
        else:
            self._idle[self._port_of[connection]].append(connection)
        self._done(call, status)

    def _lost(self, connection: socket.socket, status: int) -> None:
        call = self._busy.pop(connection)
        # As a proxy does: a server that did not take a request, also one that is starting, is left alone for a moment.
        self._down_until[self._port_of[connection]] = time.perf_counter() - self._began + _DOWN_S
        self._drop(connection)
        call.tries += 1
        if call.tries < self._tries:
            self._retries += 1
            self._again.appendleft(call)
        else:
            self._done(call, status)

    def _done(self, call: _Call, status: int) -> None:
        self._latency_us[call.number] = 1e6 * (time.perf_counter() - self._began - self._sent_at[call.number])
        self._status[call.number] = status

    def _drop(self, connection: socket.socket) -> None:
        port = self._port_of.pop(connection)
        if connection in self._idle[port]:
            self._idle[port].remove(connection)
        connection.close()


def _is_ended(connection: socket.socket) -> bool:
    """Whether the server has ended a connection that was kept too long without a request, as it may."""
    # Nothing is owed on it: what can be read is its end.
    return bool(select.select([connection], [], [], 0)[0])
