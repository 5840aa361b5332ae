"""Which partition of a topic holds a user: Kafka's own default rule, so that a reader knows it without asking a broker.

A producer of Java (Flink's sink) and librdkafka with `partitioner=murmur2_random` put a key on
`(murmur2(key) & 0x7fffffff) % partitions`. librdkafka's own default is another one.
"""

import struct

_M = 0x5BD1E995
_SEED = 0x9747B28C
_WORD = 0xFFFFFFFF


def partition_of(key: bytes, partitions: int) -> int:
    """The partition of a key, whose bytes are the user id in UTF-8.

    >>> [partition_of(user, 4) for user in (b"u1", b"u2", "ü".encode())]
    [0, 2, 2]
    """
    return (murmur2(key) & 0x7FFFFFFF) % partitions


def murmur2(data: bytes) -> int:
    """MurmurHash 2 with the seed of Kafka's clients, unsigned, 32 bits.

    >>> murmur2(b"21") - (1 << 32)  # Java prints it signed
    -973932308
    """
    size = len(data)
    whole = size & ~3
    h = _SEED ^ size
    for k in struct.unpack_from(f"<{whole >> 2}I", data):
        k = k * _M & _WORD
        k ^= k >> 24
        h = (h * _M & _WORD) ^ (k * _M & _WORD)
    if whole != size:
        h = (h ^ int.from_bytes(data[whole:], "little")) * _M & _WORD
    h ^= h >> 13
    h = h * _M & _WORD
    return h ^ (h >> 15)
