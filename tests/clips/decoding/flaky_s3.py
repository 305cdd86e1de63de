"""A proxy before an S3 server that fails some requests and answers others slowly."""

from __future__ import annotations

import http.client
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_HOP_BY_HOP = {"connection", "transfer-encoding", "keep-alive"}
_DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
_ERROR = b"<Error><Code>InternalError</Code><Message>We encountered an error</Message></Error>"


@contextmanager
def flaky(
    endpoint: str,
    fail: float,
    slow: float,
    seed: int = 0,
    denied: Callable[[str, Mapping[str, str]], bool] = lambda path, headers: False,
) -> Iterator[tuple[str, Counter]]:
    """Yields the proxy's endpoint and what it did: ``asked``, ``failed``, ``slowed``, ``denied``,
    ``range``.

    Args:
        fail: share of requests answered with 500.
        slow: share of answers that pause for half a second in the middle.
        denied: of a request's path and headers, whether it is answered with 403.
    """
    upstream = endpoint.removeprefix("http://")
    dice, lock, did = random.Random(seed), threading.Lock(), Counter()

    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            with lock:
                fails, slows = dice.random() < fail, dice.random() < slow
                did["asked"] += 1
                did["failed"] += fails
                did["slowed"] += slows and not fails
                did["range"] += "Range" in self.headers
            if denied(self.path, self.headers):
                with lock:
                    did["denied"] += 1
                self.answer(403, [("Content-Type", "application/xml")], _DENIED, False)
                return
            if fails:
                self.answer(500, [("Content-Type", "application/xml")], _ERROR, False)
                return
            server = http.client.HTTPConnection(upstream, timeout=60)
            server.request(self.command, self.path, body, dict(self.headers))
            answer = server.getresponse()
            headers = [h for h in answer.getheaders() if h[0].lower() not in _HOP_BY_HOP]
            self.answer(answer.status, headers, answer.read(), slows)
            server.close()

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any

        def answer(
            self, status: int, headers: list[tuple[str, str]], body: bytes, slowly: bool
        ) -> None:
            self.send_response(status)
            for name, value in headers:
                if name.lower() != "content-length" or self.command == "HEAD":
                    self.send_header(name, value)
            if self.command == "HEAD":
                self.end_headers()
                return
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            middle = len(body) // 2
            self.wfile.write(body[:middle])
            if slowly:
                self.wfile.flush()
                time.sleep(0.5)
            self.wfile.write(body[middle:])

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", did
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
