"""A container's program that does what it is asked, for tests of the emulator; a program.

`/hello`, `/sleep?SECONDS`, `/lines?N`, `/pid`, `/env?NAME`, `/token`, `/size`, `/eat` (memory),
`/exit?CODE`. Whatever it was asked stands in the file that `ASKED` names.
"""

import http.server
import os
import signal
import time
import urllib.parse


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if "ASKED" in os.environ:
            with open(os.environ["ASKED"], "a") as file:
                file.write(f"{os.getpid()} {self.path}\n")
        if url.path == "/lines":
            self.lines(int(url.query))
            return
        if url.path == "/sleep":
            time.sleep(float(url.query))
        elif url.path == "/eat":
            kept = []
            while True:
                kept.append(b"x" * (8 << 20))
                time.sleep(0.01)
        elif url.path == "/exit":
            os._exit(int(url.query))
        said = {
            "/env": os.environ.get(url.query, ""),
            "/pid": str(os.getpid()),
            "/token": self.headers.get("authorization", ""),
            "/size": str(len(body)),
        }.get(url.path, url.path)
        self.send_response(200)
        self.send_header("content-length", str(len(said)))
        self.end_headers()
        self.wfile.write(said.encode())

    do_POST = do_GET  # noqa: N815

    def lines(self, number):
        self.send_response(200)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for count in range(number):
            line = b"%d %.3f\n" % (count, time.time())
            self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
            self.wfile.flush()
            time.sleep(0.05)
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *args):
        pass


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 512


def term(*_):
    print("SIGTERM", flush=True)
    if os.environ.get("STUBBORN") != "1":
        os._exit(0)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, term)
    Server(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
