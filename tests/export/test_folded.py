"""The score that is exported is the model's score, rearranged (onnx_export/folded.py)."""

import pytest
import torch
from exports import CATEGORY_IDS, ITEM_IDS, VARIANTS, make_model
from hypothesis import given
from hypothesis import strategies as st

from model.nn.ctr import MimnCtr, probability
from onnx_export.folded import FoldedScore


def _model(name: str) -> MimnCtr:
    """A model in double precision, whose MLP is far from its beginning: slopes above 1 and below 0."""
    model = make_model(*VARIANTS[name])
    assert isinstance(model, MimnCtr)
    mlp = model.head.mlp
    with torch.no_grad():
        for weights in (mlp.first_slope.weight, mlp.second_slope.weight, mlp.affine.gamma, mlp.affine.beta):
            weights.normal_(std=1.5)
    return model.double()


_MODELS = {name: _model(name) for name in VARIANTS}


@pytest.mark.parametrize("name", VARIANTS)
@given(
    users=st.integers(1, 3), candidates=st.integers(1, 6), scale=st.sampled_from([0.0, 0.1, 1.0, 30.0]), seed=st.integers(0, 99)
)
def test_a_folded_score_is_the_models_whatever_the_memory(
    name: str, users: int, candidates: int, scale: float, seed: int
) -> None:
    model = _MODELS[name]
    drawn = torch.Generator().manual_seed(seed)
    shape = (users, candidates)
    state_BF = scale * torch.randn(users, model.layout.size_F, dtype=torch.double, generator=drawn)
    item_BN = torch.randint(0, len(ITEM_IDS) + 2, shape, generator=drawn)
    category_BN = torch.randint(0, len(CATEGORY_IDS) + 2, shape, generator=drawn)
    mask_BN = torch.rand(shape, generator=drawn) < 0.8
    wanted = len(VARIANTS[name][1])
    features_BNC = torch.randn(*shape, wanted, dtype=torch.double, generator=drawn) if wanted else None
    with torch.no_grad():
        folded_BN = FoldedScore(model)(state_BF, item_BN, category_BN, mask_BN, features_BNC)
        plain_BN = probability(model.logits(state_BF, item_BN, category_BN, features_BNC)) * mask_BN
    # In double precision no rounding hides a term that was left out.
    torch.testing.assert_close(folded_BN, plain_BN, rtol=1e-9, atol=1e-12)
