"""Where an online store is: a folder, which is RocksDB's, or the URL of a Redis.

    store                                               a folder
    redis://user@host:6379/0?name=uic                   one server; rediss:// speaks TLS
    redis+cluster://host:7000,host:7001?name=uic        a cluster, found by any of its servers; rediss+cluster:// speaks TLS

`name` (default: uic) begins every key, so that several stores share a Redis. The password is no part of the URL: it comes from
the environment, with what else is in `Access`.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl, urlsplit

from uic.errors import BadInput

_SCHEMES = {
    "redis": (False, False),
    "rediss": (True, False),
    "redis+cluster": (False, True),
    "rediss+cluster": (True, True),
}
_PORT = 6379
_EXPECTED = "expected redis://host:port/0, rediss:// for TLS, or redis+cluster://host:port,host:port"


@dataclass(frozen=True, kw_only=True)
class Access:
    """How to get into a Redis, and how long to wait for it: `timeout_s` for each of `retries` + 1 attempts.

    `ca_file`: the certificates to trust; `certificate_file` and `key_file`: our own, where TLS is mutual.
    """

    username: str | None = None
    password: str | None = None
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    timeout_s: float = 1.0
    retries: int = 2

    def __repr__(self) -> str:
        return f"Access(username={self.username!r}, timeout_s={self.timeout_s})"  # never the password


class RedisUrl(NamedTuple):
    """The parts of a URL."""

    hosts: tuple[tuple[str, int], ...]
    database: int = 0
    name: str = "uic"
    username: str | None = None
    is_tls: bool = False
    is_cluster: bool = False

    def __str__(self) -> str:
        scheme = next(scheme for scheme, kind in _SCHEMES.items() if kind == (self.is_tls, self.is_cluster))
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        user = "" if self.username is None else f"{self.username}@"
        return f"{scheme}://{user}{hosts}{'' if self.is_cluster else f'/{self.database}'}?name={self.name}"


def redis_url(place: str | Path) -> RedisUrl | None:
    """The URL that a place is, None for a folder; raises BadInput for a URL that is none of ours.

    Options of the command line and settings give a `Path`, which makes one slash of two.

    >>> redis_url("store"), str(redis_url(Path("redis://127.0.0.1:7000/1")))
    (None, 'redis://127.0.0.1:7000/1?name=uic')
    >>> redis_url("redis+cluster://a:1,b:2?name=live").hosts
    (('a', 1), ('b', 2))
    """
    match = re.match(r"([a-z+]+):/{1,2}(?=[^/])(.*)", str(place))
    if match is None or match[1] not in _SCHEMES:
        return None
    url = f"{match[1]}://{match[2]}"
    is_tls, is_cluster = _SCHEMES[match[1]]
    parts = urlsplit(url)
    user, _, hosts = parts.netloc.rpartition("@")
    if ":" in user:
        raise BadInput(
            f"{match[1]}://{hosts}: a password does not belong in a URL; set UIC__STORE__PASSWORD in the environment"
        )
    options = dict(parse_qsl(parts.query))
    name = options.pop("name", "uic")
    database = parts.path.strip("/")
    is_right = not options and re.fullmatch(r"[\w.:-]{1,64}", name, re.ASCII) and re.fullmatch(r"\d{0,4}", database)
    if not is_right or (is_cluster and database) or (not is_cluster and "," in hosts):
        raise BadInput(f"{url}: {_EXPECTED}, and ?name=NAME (letters, digits, dots) at most")
    return RedisUrl(tuple(_hosts(hosts, url)), int(database or 0), name, user or None, is_tls, is_cluster)


def _hosts(text: str, url: str) -> Iterable[tuple[str, int]]:
    for each in text.split(","):
        match = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([^\s:\[\]]+))(?::(\d{1,5}))?", each)
        if match is None or int(match[3] or _PORT) > 65535:
            raise BadInput(f"{url}: {_EXPECTED}; got the host {each!r}")
        yield match[1] or match[2], int(match[3] or _PORT)
