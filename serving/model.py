"""A bundle made ready to score: many users at once, each with candidates of their own."""

from collections.abc import Sequence

import numpy as np

from serving.rows import Rows
from serving.wire import Candidate, Refused
from uic.bundle import Bundle
from uic.errors import BundleError, UicError
from uic.memory import Float32, UserMemory
from uic.runtime import OnnxScore
from uic.vocabulary import PADDING_ROW

# Rows of padding cost what rows of candidates do.
_MOST_PADDED = 2.0
_USUAL = 100  # candidates of a usual request


class Model:
    """A bundle's right half. A request is scored by one of them, whatever is loaded meanwhile."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.version = bundle.manifest.version
        self._score = OnnxScore(bundle)
        self._items, self._categories = Rows(bundle.items), Rows(bundle.categories)

    def score(self, memories: Sequence[UserMemory], candidates: Sequence[Sequence[Candidate]]) -> list[Float32]:
        """P(click) of each user's candidates in their order.

        One call of ONNX Runtime for all users, shorter lists padded and masked: half the time of a call for each where lists
        are short. Where padding would be most of the work, each user is a call. A score is the same in either.
        """
        features = [self._features(of_user) for of_user in candidates]  # before any work: what is missing refuses the request
        asked = [place for place, of_user in enumerate(candidates) if of_user]
        scores: list[Float32] = [np.zeros(0, dtype=np.float32)] * len(candidates)
        longest, total = max(map(len, candidates), default=0), sum(map(len, candidates))
        groups = [asked] if longest * len(asked) <= _MOST_PADDED * total else [[place] for place in asked]
        for group in groups:
            if group:
                of_group = self._call(
                    [memories[at] for at in group], [candidates[at] for at in group], [features[at] for at in group]
                )
                for place, row_N in zip(group, of_group, strict=True):
                    scores[place] = row_N[: len(candidates[place])]
        return scores

    def _call(
        self, memories: list[UserMemory], candidates: list[Sequence[Candidate]], features: list[Float32 | None]
    ) -> Float32:
        counts_B = np.array([len(of_user) for of_user in candidates])
        mask_BN = np.arange(counts_B.max()) < counts_B[:, None]
        everyone = [each for of_user in candidates for each in of_user]
        items_BN = np.full(mask_BN.shape, PADDING_ROW, dtype=np.int64)
        categories_BN = items_BN.copy()
        items_BN[mask_BN] = self._items(np.array([each.item_id for each in everyone], dtype=np.int64))
        categories_BN[mask_BN] = self._categories(np.array([each.category_id for each in everyone], dtype=np.int64))
        given = [features_NC for features_NC in features if features_NC is not None]
        features_BNC = np.zeros((*mask_BN.shape, given[0].shape[-1]), dtype=np.float32) if given else None
        if features_BNC is not None:
            features_BNC[mask_BN] = np.concatenate(given)
        states_BF = np.stack([memory.state_F for memory in memories])
        return self._score(states_BF, items_BN, categories_BN, mask_BN, features_BNC)

    def _features(self, candidates: Sequence[Candidate]) -> Float32 | None:
        wanted = self.bundle.manifest.head_features
        if not wanted or not candidates:
            return None
        rows = []
        for candidate in candidates:
            given = candidate.features or {}
            if missing := [name for name in wanted if name not in given]:
                raise Refused(
                    422,
                    "features",
                    f"item {candidate.item_id}: bundle {self.version} wants the head features {', '.join(wanted)}; "
                    f"missing: {', '.join(missing)}",
                )
            rows.append([given[name] for name in wanted])
        with np.errstate(over="ignore"):
            features_NC = np.array(rows, dtype=np.float32)
        if not np.isfinite(features_NC).all():
            raise Refused(422, "features", "expected head features within float32, got a larger one")
        return features_NC

    def warm(self, *, most_users: int, most_candidates: int) -> None:
        """Score once at every number of users and at growing numbers of candidates, so that no request is the first.

        Raises BundleError where a score is not finite or ONNX Runtime fails: nobody is to be scored by this bundle.
        """
        try:
            self._warm(most_users, most_candidates)
        except UicError:
            raise
        except Exception as error:  # onnxruntime raises its own family of exceptions, one a cause
            raise BundleError(f"{self.bundle.path}: score.onnx cannot be run: {error}") from error

    def _warm(self, most_users: int, most_candidates: int) -> None:
        memory, candidate = self.bundle.initial, Candidate(0, 0, dict.fromkeys(self.bundle.manifest.head_features, 0.0))
        sizes = [(users, max(1, min(_USUAL, most_candidates // users))) for users in range(1, most_users + 1)]
        sizes += [(1, 1 << power) for power in range(most_candidates.bit_length())] + [(1, most_candidates)]
        for users, each in sizes:
            scores = self.score([memory] * users, [[candidate] * each] * users)
            if not all(np.isfinite(scores_N).all() for scores_N in scores):
                raise BundleError(f"{self.bundle.path}: score.onnx gives no finite score from the initial memory")
