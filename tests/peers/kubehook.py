"""An admission webhook: an HTTPS server that the API server asks before it stores something."""

import base64
import json
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

#: Told the `request` of an AdmissionReview, returns its `response`, without `uid`.
Decide = Callable[[dict[str, Any]], dict[str, Any]]


def refuse(message: str, code: int = 403) -> dict[str, Any]:
    """Return the response that refuses."""
    return {"allowed": False, "status": {"code": code, "message": message}}


def mutate(*patch: Mapping[str, Any]) -> dict[str, Any]:
    """Return the response that allows, and changes what is stored by a JSON patch."""
    data = base64.b64encode(json.dumps(patch).encode()).decode()
    return {"allowed": True, "patchType": "JSONPatch", "patch": data}


class Hook:
    """One webhook. Made by `Lab.webhook`.

    Attributes:
        asked: the requests that it was asked about.
    """

    def __init__(self, address: str, certificate: Path, key: Path, decide: Decide) -> None:
        self.asked: list[dict[str, Any]] = []
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                request = json.loads(self.rfile.read(length))["request"]
                hook.asked.append(request)
                response = {**decide(request), "uid": request["uid"]}
                review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}
                body = json.dumps({**review, "response": response}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self._server = ThreadingHTTPServer((address, 0), Handler)
        self._server.daemon_threads = True
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def url(self) -> str:
        """Where it is."""
        address, port = self._server.server_address[:2]
        return f"https://{address!s}:{port}/"

    def registration(
        self, name: str, namespace: str, rules: Sequence[Mapping[str, Any]], authority: Path,
        more: Mapping[str, Any],
    ) -> tuple[str, dict[str, Any]]:  # fmt: skip
        """Return the path and the object by which the API server knows of it.

        A mutating one, which may refuse as well.
        """
        trusted = base64.b64encode(authority.read_bytes()).decode()
        webhook = {
            "name": f"{name}.kubelab.test", "rules": list(rules), "sideEffects": "None",
            "admissionReviewVersions": ["v1"], "timeoutSeconds": 10,
            "clientConfig": {"url": self.url, "caBundle": trusted},
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
            **more,
        }  # fmt: skip
        path = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
        return path, {"metadata": {"name": name}, "webhooks": [webhook]}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
