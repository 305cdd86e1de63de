"""A proxy before an S3 server that fails as its test says, request by request."""

from __future__ import annotations

import http.client
import math
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

_HOP_BY_HOP = {"connection", "transfer-encoding", "keep-alive", "content-length", "expect"}
_ENTRY = re.compile(rb"<Contents>.*?<Key>(.*?)</Key>.*?</Contents>", re.DOTALL)


@dataclass
class Faults:
    """What the proxy does; tests set it while it serves.

    Attributes:
        answer: of a method and a path with its query: an S3 error such as ``503 SlowDown``,
            ``closed`` (the connection, before an answer), ``broken`` (in the middle of what the
            client sends), or nothing: as the server answers.
        lag_s: objects written so recently are left out of listings, as some stores do.
    """

    answer: Callable[[str, str], str] = lambda method, path: ""
    lag_s: float = 0.0
    written_s: dict[str, float] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)


@contextmanager
def faulty(endpoint: str) -> Iterator[tuple[str, Faults]]:
    """Yields the proxy's endpoint and what it does."""
    upstream, faults = endpoint.removeprefix("http://"), Faults()

    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            faults.asked.append(f"{self.command} {self.path}")
            fault = faults.answer(self.command, self.path)
            if self.headers.get("Expect"):
                self.send_response_only(100)
                self.end_headers()
            if fault in ("closed", "broken"):
                self.rfile.read(1000 if fault == "broken" else 0)
                self.close_connection = True
                with suppress(OSError):
                    self.connection.shutdown(socket.SHUT_RDWR)
                return
            body = self.body()
            if fault:
                status, _, code = fault.partition(" ")
                text = f"<Error><Code>{code}</Code><Message>so the test says</Message></Error>"
                self.reply(int(status), [("Content-Type", "application/xml")], text.encode())
                return
            server = http.client.HTTPConnection(upstream, timeout=60)
            asked = {n: v for n, v in self.headers.items() if n.lower() not in _HOP_BY_HOP}
            server.request(self.command, self.path, body, asked)
            answer = server.getresponse()
            headers = [h for h in answer.getheaders() if h[0].lower() not in _HOP_BY_HOP]
            data = answer.read()
            if self.command in ("PUT", "POST"):
                key = unquote(self.path.partition("?")[0].lstrip("/").partition("/")[2])
                faults.written_s[key] = time.monotonic()
            if "list-type=2" in self.path:
                data = _ENTRY.sub(self.listed, data)
            length_then = answer.getheader("Content-Length")
            self.reply(answer.status, headers, data, length_then)
            server.close()

        def listed(self, entry: re.Match[bytes]) -> bytes:
            written_s = faults.written_s.get(unquote(entry[1].decode()), -math.inf)
            return entry[0] if time.monotonic() - written_s > faults.lag_s else b""

        def body(self) -> bytes:
            if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return body

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any

        def reply(
            self,
            status: int,
            headers: list[tuple[str, str]],
            body: bytes,
            head_length: str | None = None,
        ) -> None:
            is_head = self.command == "HEAD"
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("Content-Length", (head_length or "0") if is_head else str(len(body)))
            self.end_headers()
            if not is_head:
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", faults
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def for_seconds(seconds: float, fault: str) -> Callable[[str, str], str]:
    """An `answer`: this fault, from the first request on, for so long."""

    since: list[float] = []

    def answer(method: str, path: str) -> str:
        since.append(time.monotonic())
        return fault if since[-1] - since[0] < seconds else ""

    return answer
