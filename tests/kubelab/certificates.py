"""Who is who in a lab: keys and certificates on elliptic curves, by openssl, and kubeconfigs."""

import subprocess
from pathlib import Path
from typing import Final

from kubelab.plan import NODE, SERVICES, Plan

#: What Kueue is called by whoever asks for the places in its queues.
KUEUE: Final = "kueue.kueue-system.svc"
_CLIENT: Final = "extendedKeyUsage=clientAuth"
_DAYS: Final = "3650"


def make(plan: Plan) -> None:
    """Make all that the parts need, and the administrator's kubeconfig."""
    plan.keys.mkdir(mode=0o700)
    _key(plan.keys / "accounts.key")
    _key(plan.keys / "ca.key")
    _openssl(plan, "req", "-x509", "-new", "-key", "ca.key", "-subj", "/CN=kubelab",
             "-days", _DAYS, "-out", "ca.crt")  # fmt: skip
    names = f"IP:127.0.0.1,IP:{plan.address},IP:{SERVICES}.1,DNS:localhost,DNS:kubernetes,"
    names += "DNS:kubernetes.default,DNS:kubernetes.default.svc"
    sign(plan, "apiserver", "/CN=kube-apiserver",
         f"subjectAltName={names}\nextendedKeyUsage=serverAuth")  # fmt: skip
    sign(plan, "admin", "/O=system:masters/CN=admin")
    sign(plan, "kubelet-client", "/O=system:masters/CN=kube-apiserver-kubelet-client")
    names = f"IP:{plan.address},DNS:{NODE}"
    sign(plan, "kubelet", f"/O=system:nodes/CN=system:node:{NODE}",
         f"subjectAltName={names}\nextendedKeyUsage=clientAuth,serverAuth")  # fmt: skip
    sign(plan, "front-proxy", "/CN=front-proxy")
    (plan.keys / "kueue").mkdir()
    sign(plan, "kueue/tls", "/CN=kueue", f"subjectAltName=IP:127.0.0.1,DNS:{KUEUE}\n"
         "extendedKeyUsage=serverAuth")  # fmt: skip
    for name in ("admin", "kubelet"):
        kubeconfig(plan, name)


def sign(plan: Plan, name: str, subject: str, extensions: str = _CLIENT) -> None:
    """Make a key and a certificate of the lab's authority.

    Args:
        plan: the lab.
        name: of the files, `NAME.key` and `NAME.crt`.
        subject: as openssl has it; O is a group, CN the user.
        extensions: lines of openssl's configuration.
    """
    _key(plan.keys / f"{name}.key")
    request = _openssl(plan, "req", "-new", "-key", f"{name}.key", "-subj", subject)
    (plan.keys / f"{name}.ext").write_text(extensions + "\n")
    _openssl(
        plan, "x509", "-req", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
        "-days", _DAYS, "-extfile", f"{name}.ext", "-out", f"{name}.crt", stdin=request,
    )  # fmt: skip


def kubeconfig(plan: Plan, name: str, token: str | None = None) -> Path:
    """Write a kubeconfig with the certificate of that name, or with a token; returns its path."""
    who = f"token: {token}" if token else (
        f"client-certificate: {plan.keys}/{name}.crt, client-key: {plan.keys}/{name}.key"
    )  # fmt: skip
    path = plan.keys / f"{name}.kubeconfig"
    path.touch(mode=0o600)
    path.write_text(f"""apiVersion: v1
kind: Config
clusters:
- name: kubelab
  cluster: {{server: "{plan.server}", certificate-authority: {plan.keys}/ca.crt}}
users:
- name: {name}
  user: {{{who}}}
contexts:
- name: kubelab
  context: {{cluster: kubelab, user: {name}}}
current-context: kubelab
""")
    return path


def _key(path: Path) -> None:
    path.touch(mode=0o600)
    subprocess.run(
        ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", path], check=True
    )


def _openssl(plan: Plan, *words: str, stdin: bytes = b"") -> bytes:
    done = subprocess.run(
        ["openssl", *words], cwd=plan.keys, input=stdin, capture_output=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"openssl {words[0]}: {done.stderr.decode(errors='replace')}")
    return done.stdout
