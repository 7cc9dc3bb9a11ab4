"""When a certificate ends, read without a library for certificates.

A client whose certificate has ended is told 401 and nothing else, so that who looks for the cause
looks for a long time.
"""

from __future__ import annotations

import binascii
import datetime as dt
import ssl

_SEQUENCE, _VERSION = 0x30, 0xA0
_MOMENTS = {0x17: "%y%m%d%H%M%SZ", 0x18: "%Y%m%d%H%M%SZ"}  # UTCTime, GeneralizedTime


def ends(pem: bytes) -> float | None:
    """Return when the first certificate of a text ends, in seconds since the epoch.

    Args:
        pem: the text.

    Returns:
        None for what is no certificate.
    """
    begin, end = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"
    start = pem.find(begin)
    stop = pem.find(end, start)
    if start < 0 or stop < 0:
        return None
    try:
        der = ssl.PEM_cert_to_DER_cert(pem[start : stop + len(end)].decode("ascii"))
        certificate = _inside(der, _SEQUENCE)
        fields = _parts(_inside(certificate, _SEQUENCE))
        # RFC 5280, 4.1: [version], serial number, signature, issuer, validity, …
        validity = fields[4 if fields[0][0] == _VERSION else 3]
        kind, said = _parts(validity[1])[1]
        moment = dt.datetime.strptime(said.decode("ascii"), _MOMENTS[kind])  # noqa: DTZ007 - is UTC
    except (ValueError, KeyError, IndexError, binascii.Error):
        return None
    return moment.replace(tzinfo=dt.UTC).timestamp()


def _inside(data: bytes, kind: int) -> bytes:
    found, content = _parts(data)[0]
    if found != kind:
        raise ValueError(kind)
    return content


def _parts(data: bytes) -> list[tuple[int, bytes]]:
    """Return kind and content of each element of DER (X.690, 8.1)."""
    parts, at = [], 0
    while at < len(data):
        kind, size, start = data[at], data[at + 1], at + 2
        if size & 0x80:
            start += size & 0x7F
            size = int.from_bytes(data[at + 2 : start], "big")
        if start + size > len(data):
            raise ValueError(size)
        parts.append((kind, data[start : start + size]))
        at = start + size
    return parts
