"""Where an online store is: a folder, which is RocksDB's, or the URL of a Redis.

    store                                               a folder
    redis://user@host:6379/0?name=uic                   one server; rediss:// speaks TLS
    redis+cluster://host:7000,host:7001?name=uic        a cluster, found by any of its servers; rediss+cluster:// speaks TLS

    ?name=uic                    begins every key, so that several stores share a Redis
    &timeout_s=1&retries=2       how long to wait for an answer, and how often to ask again
    &ca=ca.pem&cert=c.pem&key=k.pem       TLS: the certificates to trust; our own, where the server asks for one

The password is no part of the URL, which stands in settings, job graphs and messages: it comes from the environment, of workers
too, as UIC__STORE__PASSWORD.
"""

import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl, urlencode

from uic.errors import BadInput

PASSWORD = "UIC__STORE__PASSWORD"
_SCHEMES = {
    "redis": (False, False),
    "rediss": (True, False),
    "redis+cluster": (False, True),
    "rediss+cluster": (True, True),
}
_PORT = 6379
_URL = re.compile(r"([a-z+]+):/{1,2}(?:(?P<user>[^@/?]*)@)?(?P<hosts>[^@/?]+)(?:/(?P<database>\d{0,4}))?(?:\?(?P<options>.*))?")
_HOST = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([^\s:\[\]]+))(?::(\d{1,5}))?")
_OPTIONS = {
    "name": r"[\w.:-]{1,64}",
    "timeout_s": r"\d+(\.\d+)?",
    "retries": r"\d{1,2}",
    "ca": r".+",
    "cert": r".+",
    "key": r".+",
}


class RedisUrl(NamedTuple):
    """The parts of a URL."""

    hosts: tuple[tuple[str, int], ...]
    database: int = 0
    username: str | None = None
    is_tls: bool = False
    is_cluster: bool = False
    name: str = "uic"
    timeout_s: float = 1.0
    retries: int = 2
    ca: str | None = None
    cert: str | None = None
    key: str | None = None

    def __str__(self) -> str:
        scheme = next(scheme for scheme, kind in _SCHEMES.items() if kind == (self.is_tls, self.is_cluster))
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        user = "" if self.username is None else f"{self.username}@"
        given = {name: value for name in _OPTIONS if (value := getattr(self, name)) not in (None, self._field_defaults[name])}
        options = f"?{urlencode(given, safe='/:')}" if given else ""
        return f"{scheme}://{user}{hosts}{'' if self.is_cluster else f'/{self.database}'}{options}"


def redis_url(place: str | Path) -> RedisUrl | None:
    """The URL that a place is, None for a folder; raises BadInput for one that is not as it should be.

    Options of the command line and settings give a `Path`, which makes one slash of two.

    >>> redis_url("store"), str(redis_url(Path("redis://127.0.0.1:7000/1")))
    (None, 'redis://127.0.0.1:7000/1')
    >>> redis_url("redis+cluster://a:1,b:2?name=live")[:2]
    ((('a', 1), ('b', 2)), 0)
    """
    scheme, colon, _ = str(place).partition(":/")
    if not colon or scheme not in _SCHEMES:
        return None
    if re.match(r"[a-z+]+:/{1,2}[^/]*:.*@", str(place)):
        raise BadInput(f"{scheme}://...: a password does not belong in a URL; set {PASSWORD} in the environment")
    match = _URL.fullmatch(str(place))
    is_tls, is_cluster = _SCHEMES[scheme]
    hosts = [_HOST.fullmatch(each) for each in match["hosts"].split(",")] if match else [None]
    options = dict(parse_qsl(match["options"] or "", keep_blank_values=True)) if match else {}
    is_right = all(re.fullmatch(_OPTIONS.get(name, "(?!)"), value, re.ASCII) for name, value in options.items())
    if match is None or not all(hosts) or not is_right or (match["database"] if is_cluster else len(hosts) > 1):
        raise BadInput(
            f"{place}: expected redis://host:port/0, rediss:// for TLS or redis+cluster://host:port,host:port, "
            f"and behind a ? any of {', '.join(_OPTIONS)}"
        )
    found = tuple((each[1] or each[2], int(each[3] or _PORT)) for each in hosts if each)
    kinds = {"timeout_s": float, "retries": int}
    typed = {name: kinds.get(name, str)(value) for name, value in options.items()}
    return RedisUrl(found, int(match["database"] or 0), match["user"] or None, is_tls, is_cluster, **typed)


def absolute(place: Path) -> Path:
    """The same place from wherever one is."""
    return place.absolute() if redis_url(place) is None else place


def words(place: Path) -> str:
    """The place as people know it: a URL with both of its slashes."""
    url = redis_url(place)
    return str(place if url is None else url)
