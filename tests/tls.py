"""A certificate for the loopback interface, and the authority that signed it, which nobody trusts."""

import shutil
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.s3_server import HOST


@dataclass(frozen=True)
class Authority:
    """What a server shows, and the file that makes a client believe it."""

    context: ssl.SSLContext
    bundle: Path


def make_authority(folder: Path) -> Authority:
    """Make an authority of a test's own."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no `openssl` to make a certificate with")
    bundle, key, request, shown = (folder / name for name in ("ca.pem", "ca.key", "server.csr", "server.pem"))
    subjects = folder / "subjects"
    subjects.write_text(f"subjectAltName=IP:{HOST},DNS:localhost")
    new = ["-newkey", "rsa:2048", "-nodes", "-days", "2"]
    made = ["-req", "-in", request, "-CA", bundle, "-CAkey", key, "-days", "2", "-extfile", subjects]
    commands: list[list[str | Path]] = [
        ["req", "-x509", *new, "-subj", "/CN=Nobody", "-keyout", key, "-out", bundle],
        ["req", *new[:-2], "-subj", f"/CN={HOST}", "-keyout", folder / "server.key", "-out", request],
        ["x509", *made, "-out", shown],
    ]
    for command in commands:
        subprocess.run([openssl, *command], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(shown, folder / "server.key")
    return Authority(context, bundle)
