"""Who acts, and on what: users with drifting interests, without a table of users."""

import numpy as np
from numpy.typing import NDArray

from uic.synthetic.spec import SyntheticSpec

Int64 = NDArray[np.int64]
UInt64 = NDArray[np.uint64]
Float64 = NDArray[np.float64]

# How much of a user's attention the first, second and third interest have, added up.
_INTERESTS = np.array([0.6, 0.9, 1.0])


class Population:
    """The distributions of one spec. An interest of a user is a function of user, place and time: nothing is stored for it."""

    def __init__(self, spec: SyntheticSpec) -> None:
        self._spec = spec
        self._others = spec.users - 1 if spec.hot_share > 0 else spec.users
        self._user_cdf = _zipf_cdf(max(1, self._others), spec.zipf) if spec.zipf > 0 else None
        self._category_cdf = _zipf_cdf(spec.categories, spec.item_zipf)
        self._rank_cdf = _zipf_cdf(-(-spec.items // spec.categories), spec.item_zipf)

    def users(self, who_N: Float64, is_hot_N: Float64) -> Int64:
        """Numbers of users; 0 is the one who takes `hot_share` of the events, and the most active where users are Zipf."""
        users_N = (who_N * self._others).astype(np.int64) if self._user_cdf is None else _quantile(self._user_cdf, who_N)
        if self._spec.hot_share > 0:
            users_N = np.where((is_hot_N < self._spec.hot_share) | (self._others == 0), 0, users_N + 1)
        return users_N

    def items(self, users_N: Int64, time_N: Int64, interest_N: Float64, rank_N: Float64) -> tuple[Int64, Int64]:
        """Places of an item and of its category: an interest that the user has at that time, and an item popular in it."""
        spec = self._spec
        place_N = np.searchsorted(_INTERESTS, interest_N, side="right")
        salt = np.uint64(spec.seed % (1 << 32)) << np.uint64(32)
        who_N = _mixed((users_N * len(_INTERESTS) + place_N).astype(np.uint64) ^ salt)
        # Everybody changes at another moment, and not all interests at once.
        phase_N = (who_N % np.uint64(spec.interest_ms)).astype(np.int64)
        period_N = ((time_N + phase_N) // spec.interest_ms).astype(np.uint64)
        uniform_N = (_mixed(who_N ^ period_N) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        categories_N = _quantile(self._category_cdf, uniform_N)
        items_N = categories_N + spec.categories * _quantile(self._rank_cdf, rank_N)
        # The last rank does not exist in every category.
        return np.where(items_N < spec.items, items_N, categories_N), categories_N


def _zipf_cdf(count: int, exponent: float) -> Float64:
    weights = np.arange(1, count + 1, dtype=np.float64) ** -exponent
    cdf: Float64 = np.cumsum(weights) / weights.sum()
    cdf[-1] = 1.0
    return cdf


def _quantile(cdf: Float64, uniform_N: Float64) -> Int64:
    found: Int64 = np.searchsorted(cdf, uniform_N, side="right")
    return found


def _mixed(value_N: UInt64) -> UInt64:
    """A fixed hash of 64 bits, the finaliser of splitmix64; numpy's integers wrap around."""
    value_N = (value_N + np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
    value_N = (value_N ^ (value_N >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value_N = (value_N ^ (value_N >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value_N ^ (value_N >> np.uint64(31))
