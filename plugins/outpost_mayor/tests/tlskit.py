"""Certificates of tests, by an authority of their own: openssl makes them."""

from __future__ import annotations

import subprocess
from pathlib import Path


class Authority:
    """An authority that nobody knows.

    Args:
        folder: for its files.

    Attributes:
        file: its certificate, for `SSL_CERT_FILE`.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self.file = folder / "ca.crt"
        self._made = 0
        (folder / "ca.cnf").write_text(
            "[req]\ndistinguished_name=dn\nx509_extensions=v3\nprompt=no\n[dn]\nCN=tests\n"
            "[v3]\nbasicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\n"
        )
        self._run("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                  "-keyout", "ca.key", "-out", "ca.crt", "-days", "2",
                  "-config", "ca.cnf")  # fmt: skip

    def signed(self, name: str, days: int = 1, *, more: str = "") -> tuple[Path, Path]:
        """Return certificate and key of a host.

        Args:
            name: the host's.
            days: for so many it is valid; below 0, it is over.
            more: another name of it.
        """
        self._made += 1
        key, asked, cert = (f"{self._made}.{end}" for end in ("key", "csr", "crt"))
        names = ",".join(f"DNS:{one}" for one in (name, more) if one)
        (self._folder / "san").write_text(f"subjectAltName={names}\n")
        self._run("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                  "-keyout", key, "-out", asked, "-subj", f"/CN={name}")  # fmt: skip
        self._run("x509", "-req", "-in", asked, "-CA", "ca.crt", "-CAkey", "ca.key",
                  "-CAcreateserial", "-days", str(days), "-extfile", "san",
                  "-out", cert)  # fmt: skip
        return self._folder / cert, self._folder / key

    def _run(self, *words: str) -> None:
        subprocess.run(
            ["openssl", *words], cwd=self._folder, check=True, capture_output=True, timeout=60
        )
