"""A user's partition is the one that Kafka's own clients choose."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uic.partition import murmur2, partition_of


# From the tests of Kafka's own Utils.murmur2 (clients/src/test, UtilsTest.testMurmur2), as Java prints them.
@pytest.mark.parametrize(
    ("key", "hash_java"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_is_kafkas(key: bytes, hash_java: int) -> None:
    assert murmur2(key) == hash_java % (1 << 32)


@given(st.binary(max_size=40), st.integers(1, 200))
def test_every_key_has_a_partition(key: bytes, partitions: int) -> None:
    assert 0 <= partition_of(key, partitions) < partitions
    assert 0 <= murmur2(key) < 1 << 32
