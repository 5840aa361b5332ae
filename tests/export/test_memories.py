"""Every memory is exported, streamed and served by the code that MIMN is: what comes out equals torch offline."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from exports import CATEGORY_IDS, COMPARED, ITEM_IDS, export, make_model

from model.nn.ctr import probability
from onnx_export.parity import check_parity
from uic.event import BehaviourEvent
from uic.fold import fold
from uic.runtime import OnnxScore, OnnxStep
from uic.update import Rules


@pytest.mark.parametrize("name", ["sdim", "delta", "rum"])
def test_a_memory_out_of_the_stream_is_served_as_torch_scores_it_offline(name: str, tmp_path: Path) -> None:
    variant, features = COMPARED[name]
    model = make_model(variant, features)
    logging.disable(logging.DEBUG)  # the exporter's trace, which pytest would format
    bundle = export(model, tmp_path / "bundle", features)
    logging.disable(logging.NOTSET)
    parity = check_parity(model, bundle, events=300, users=4, seed=1)
    assert parity.holds, parity

    rng = np.random.default_rng(4)
    events = [
        BehaviourEvent(
            user_id=f"u{rng.integers(3)}", item_id=int(rng.choice([*ITEM_IDS, 1])), category_id=int(rng.choice(CATEGORY_IDS)),
            behaviour="click", time_ms=1000 * number,
        )
        for number in range(60)
    ]  # fmt: skip
    center, blobs = bundle.updater(OnnxStep(bundle), Rules()), dict[str, bytes]()
    for event in events:
        blob = center.update(blobs.get(event.user_id), event, log_time_ms=event.time_ms).blob
        assert blob is not None
        blobs[event.user_id] = blob
    folded = fold(center, events).memories
    candidates, kinds = bundle.items.rows(ITEM_IDS[:4]), bundle.categories.rows(CATEGORY_IDS)
    given = rng.normal(size=(1, 4, len(features))).astype(np.float32) if features else None
    for user, blob in blobs.items():
        stored = center.codec.decode(blob)
        assert (stored.sequence, stored.fingerprints) == (folded[user].sequence, folded[user].fingerprints)
        with torch.no_grad():
            state = model.initial_state(1)
            for event in (each for each in events if each.user_id == user):
                row, kind = bundle.items.rows(np.array([event.item_id])), bundle.categories.rows(np.array([event.category_id]))
                state = model.step(state, model.embedding(torch.from_numpy(row), torch.from_numpy(kind)))
            tensors = [torch.from_numpy(each)[None] for each in (candidates, kinds)]
            logits = model.score(state, *tensors, None if given is None else torch.from_numpy(given))
        scored = OnnxScore(bundle)(stored.state_F[None], candidates[None], kinds[None], None, given)
        np.testing.assert_allclose(scored, probability(logits).numpy(), rtol=0, atol=1e-5)
        np.testing.assert_allclose(stored.state_F, folded[user].state_F, rtol=1e-5, atol=1e-5)
