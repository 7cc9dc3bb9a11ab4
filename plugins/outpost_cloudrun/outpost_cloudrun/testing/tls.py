"""TLS and HTTP/2 as callers meet them: nghttpx before the emulator's own front."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import shutil
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from outpost_cloudrun.testing import ports
from outpost_cloudrun.testing.httpd import Server
from outpost_cloudrun.testing.processes import Box

#: Seconds that nghttpx may take until it listens.
_STARTS: Final = 30.0
#: Longest silence on a stream that it bears: longer than any request lives.
_SILENCE: Final = "3700s"


class TlsFronts:
    """A proxy for each address.

    Args:
        folder: for its key and certificate, and what nghttpx prints.

    Attributes:
        certificate: what callers have to trust: a file for `SSL_CERT_FILE`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.certificate = folder / "front.crt"
        self._key = folder / "front.key"
        self._boxes: dict[int, Box] = {}
        self._ports: dict[int, int] = {}
        make_certificate(self._key, self.certificate)

    async def publish(self, server: Server) -> str:
        """Put a proxy before a server, and return its address.

        Raises:
            OSError: there is no nghttpx, or it does not start.
        """
        port = ports.free()
        self._ports[server.port] = port
        await self._start(server.port)
        return f"https://127.0.0.1:{port}"

    async def restart(self, server: Server, *, hard: bool) -> None:
        """Restart the proxy of a server: with GOAWAY (SIGHUP), or by cutting all connections."""
        box = self._boxes[server.port]
        if not hard:
            box.say("hup")
            return
        box.say("kill")
        await box.ended()
        await self._start(server.port)

    async def close(self) -> None:
        """End all proxies."""
        for box in self._boxes.values():
            box.say("kill")
            await box.ended()

    async def _start(self, behind: int) -> None:
        program = shutil.which("nghttpx")
        if program is None:
            raise OSError("nghttpx is not installed: sudo apt-get install nghttp2-proxy")
        port = self._ports[behind]
        log = self.folder / f"nghttpx-{port}.log"
        log.touch()
        argv = [
            program, f"--frontend=127.0.0.1,{port}", f"--backend=127.0.0.1,{behind};;proto=h2",
            "--backend-connections-per-host=1000", "--no-ocsp", "--workers=1",
            "--errorlog-file=/dev/stderr", "--log-level=WARN",
            f"--backend-read-timeout={_SILENCE}", f"--frontend-http2-read-timeout={_SILENCE}",
            "--conf=/dev/null", str(self._key), str(self.certificate),
        ]  # fmt: skip
        self._boxes[behind] = await Box.start(argv, {}, self.folder, log, 0)
        end = asyncio.get_running_loop().time() + _STARTS
        while not await ports.listens(port):
            if asyncio.get_running_loop().time() > end:
                raise OSError(f"nghttpx does not listen: {log.read_text()[-500:]}")
            await asyncio.sleep(0.02)


def make_certificate(key_file: Path, certificate: Path, *hosts: str) -> None:
    """Make a certificate for 127.0.0.1 that is its own authority.

    Args:
        key_file: where its key is written, for the user alone.
        certificate: where it is written.
        hosts: further names that it is for.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "front of the emulator")])
    now = dt.datetime.now(dt.UTC)
    names: list[x509.GeneralName] = [
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        *(x509.DNSName(host) for host in ("localhost", *hosts)),
    ]
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=2))
        .not_valid_after(now + dt.timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    key_file.touch(mode=0o600)
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
