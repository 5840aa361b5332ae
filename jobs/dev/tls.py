"""Certificates for a broker on the loopback interface, made by openssl: an authority, and server and client signed by it."""

import subprocess
from pathlib import Path
from typing import NamedTuple

from uic.errors import EnvironmentProblem

_DAYS = "30"


class Certificates(NamedTuple):
    """PEM files; `server` holds key and certificate, the client's are apart."""

    ca: Path
    server: Path
    client: Path
    client_key: Path


def make_certificates(folder: Path) -> Certificates:
    """New keys and certificates for 127.0.0.1 and localhost; raises EnvironmentProblem where openssl is missing."""
    folder.mkdir(parents=True, mode=0o700)
    ca, ca_key = folder / "ca.pem", folder / "ca.key"
    _openssl(
        "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", _DAYS, "-subj", "/CN=uic-dev", "-keyout", ca_key, "-out", ca
    )
    for name in ("server", "client"):
        certificate, key, request = folder / f"{name}.pem", folder / f"{name}.key", folder / f"{name}.csr"
        extensions = folder / f"{name}.ext"
        extensions.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
        _openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout", key, "-out", request)
        signing = ("-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-extfile", extensions)
        _openssl("x509", "-req", "-in", request, "-days", _DAYS, *signing, "-out", certificate)
    both = folder / "server-with-key.pem"
    both.write_text((folder / "server.key").read_text() + (folder / "server.pem").read_text())
    return Certificates(ca=ca, server=both, client=folder / "client.pem", client_key=folder / "client.key")


def _openssl(*arguments: str | Path) -> None:
    try:
        done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False)
    except FileNotFoundError as error:
        raise EnvironmentProblem(
            "openssl is not installed; TLS needs it to make certificates: apt-get install openssl"
        ) from error
    if done.returncode != 0:
        raise EnvironmentProblem(f"openssl {arguments[0]} failed: {done.stderr.strip()[-500:]}")
