"""Part A of the paper's Fig. 2: our server, but DIEN computed in the request from a stored history.

    python -m benchmarks.rtp.dien_server BUNDLE GRAPHS STORE LENGTHS PORT

Wire format, HTTP server, pool of threads, store and vocabularies are those of `uic serve`; what is done for a request is not.
"""

import logging
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.rtp.dien import OnnxDien
from benchmarks.rtp.generator import HOST
from benchmarks.rtp.people import CANDIDATES, read_history
from benchmarks.rtp.servers import THREADS, TIME_S
from serving.access_log import JsonLines, write_line
from serving.answer import Memories, Observe
from serving.app import Tokens, make_app
from serving.model import Model
from serving.server import Listening, serve
from serving.service import Limits, Service
from serving.wire import Candidate, ScoreAnswer, ScoreRequest, UserScores
from uic.bundle import Bundle
from uic.store.rocksdb import RocksStore


class DienAnswers:
    """What `serving.answer.answer` is for memories: read, decode, score."""

    def __init__(self, scorer: OnnxDien) -> None:
        self._score = scorer

    def __call__(self, request: ScoreRequest, model: Model, store: Memories, observe: Observe) -> ScoreAnswer:
        return ScoreAnswer(
            bundle_version=model.version,
            users=[self._user(str(each.user_id), each.candidates, model.bundle, store, observe) for each in request.users],
        )

    def _user(self, user_id: str, candidates: list[Candidate], bundle: Bundle, store: Memories, observe: Observe) -> UserScores:
        began = time.perf_counter()
        blob = store.read(user_id)
        assert blob is not None
        read = time.perf_counter()
        item_T, category_T = read_history(blob)
        decoded = time.perf_counter()
        item_N = bundle.items.rows(np.array([each.item_id for each in candidates], dtype=np.int64))
        category_N = bundle.categories.rows(np.array([each.category_id for each in candidates], dtype=np.int64))
        chance_N = self._score(item_T, category_T, item_N, category_N)
        observe("read", read - began)
        observe("decode", decoded - read)
        observe("score", time.perf_counter() - decoded)
        return UserScores(user_id=user_id, found="live", why=None, memory=None, probabilities=chance_N.tolist())


def main(bundle: Path, graphs: Path, store: Path, lengths: list[int], port: int) -> None:
    logging.basicConfig(level=logging.WARNING, handlers=[JsonLines()])
    histories = RocksStore.open_to_read(store)
    scorer = OnnxDien(graphs)
    # Every length that is asked for is seen once before the first request, as ours warms its batches.
    rows = np.ones(max(lengths), dtype=np.int32)
    for length in lengths:
        scorer(rows[:length], rows[:length], *(np.ones(CANDIDATES, dtype=np.int64) for _ in range(2)))
    # DIEN takes long for any number of candidates: in threads, so that the event loop stays free.
    limits = Limits(threads=THREADS, time_s=TIME_S, short=0)
    service = Service(bundle, histories, store, limits, answering=DienAnswers(scorer))
    try:
        serve(make_app(service, Tokens(), write_line), service, Listening(host=HOST, port=port, drain_s=0))
    finally:
        histories.close()


if __name__ == "__main__":
    bundle, graphs, store = map(Path, sys.argv[1:4])
    main(bundle, graphs, store, [int(each) for each in sys.argv[4].split(",")], int(sys.argv[5]))
