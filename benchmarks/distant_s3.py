"""An S3 server that is far away: a real moto server behind a proxy that delays every answer.

The proxy asks moto once for each object, with the client's own headers, and answers from memory
after that: moto is slow Python, and on the same cores it would be what is measured. Ranges and
``If-Match`` are answered as S3 does. The delay is per request, on connections that stay open;
there is no limit on bandwidth.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

_RANGE = re.compile(rb"(?im)^range: *bytes=(\d*)-(\d*)")
_MATCH = re.compile(rb"(?im)^if-match: *(.+?)\r?$")
_LENGTH = re.compile(rb"(?im)^content-length: *(\d+)")
_REASONS = {200: "OK", 206: "Partial Content", 404: "Not Found", 412: "Precondition Failed"}


@dataclass
class _Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes


class _Proxy(asyncio.Protocol):
    """One connection; the class holds what all share."""

    upstream = ""
    delay_s = 0.0
    kept: dict[str, _Answer] = {}  # noqa: RUF012
    did = {"requests": 0, "head": 0, "bytes": 0}  # noqa: RUF012

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = b""

    def data_received(self, data: bytes) -> None:
        self.received += data
        while (end := self.received.find(b"\r\n\r\n")) >= 0:
            head = self.received[: end + 2]
            length = int(found[1]) if (found := _LENGTH.search(head)) else 0
            if len(self.received) < end + 4 + length:
                return
            body = self.received[end + 4 : end + 4 + length]
            self.received = self.received[end + 4 + length :]
            self.asked(head, body)

    def asked(self, head: bytes, body: bytes) -> None:
        line, _, _ = head.partition(b"\r\n")
        method, target, _ = line.decode().split(" ")
        if target.startswith("/proxy/"):
            self.control(target)
            return
        self.did["requests"] += 1
        self.did["head"] += method == "HEAD"
        answer = self.kept.get(target) if method in ("GET", "HEAD") else None
        if answer is None:
            answer = self.forwarded(method, target, head, body)
        sent = self.cut(answer, head, method)
        asyncio.get_running_loop().call_later(self.delay_s, self.write, sent)

    def control(self, target: str) -> None:
        """``/proxy/delay/0.03`` sets the delay; every such request returns and resets counts."""
        counts = {**self.did, "cpu_s": time.process_time()}
        self.did.update(dict.fromkeys(self.did, 0))
        if target.startswith("/proxy/delay/"):
            type(self).delay_s = float(target.rsplit("/", 1)[1])
        body = json.dumps(counts).encode()
        self.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    def forwarded(self, method: str, target: str, head: bytes, body: bytes) -> _Answer:
        """Moto's answer; of an object's range or header, the whole object's, which is kept."""
        pairs = (line.decode().partition(": ") for line in head.split(b"\r\n")[1:] if line)
        skipped = ("range", "if-match", "connection")
        headers = {name: value for name, _, value in pairs if name.lower() not in skipped}
        whole = "?" not in target and method in ("GET", "HEAD") and target.count("/") > 1
        server = http.client.HTTPConnection(self.upstream, timeout=60)
        server.request("GET" if whole else method, target, body, headers)
        found = server.getresponse()
        hop = ("connection", "transfer-encoding", "keep-alive", "content-length")
        kept = [(n, v) for n, v in found.getheaders() if n.lower() not in hop]
        answer = _Answer(found.status, kept, found.read())
        server.close()
        if whole and answer.status == 200:
            self.kept[target] = answer
        return answer

    def cut(self, answer: _Answer, head: bytes, method: str) -> bytes:
        status, body, headers = answer.status, memoryview(answer.body), list(answer.headers)
        etag = next((v for n, v in headers if n.lower() == "etag"), "")
        wanted, matched = _RANGE.search(head), _MATCH.search(head)
        if status == 200 and matched and matched[1].decode() != etag:
            status, body = 412, memoryview(b"")
        elif status == 200 and wanted:
            first, last = wanted[1], wanted[2]
            start = int(first) if first else max(0, len(body) - int(last))
            stop = min(int(last) + 1, len(body)) if first and last else len(body)
            status, place = (206, f"{start}-{stop - 1}") if start < stop else (416, "*")
            headers.append(("Content-Range", f"bytes {place}/{len(body)}"))
            body = body[start:stop]
        headers.append(("Content-Length", str(len(body))))
        text = f"HTTP/1.1 {status} {_REASONS.get(status, 'Error')}\r\n"
        text += "".join(f"{name}: {value}\r\n" for name, value in headers) + "\r\n"
        if method == "HEAD":
            return text.encode()
        self.did["bytes"] += len(body)
        return b"".join([text.encode(), body])

    def write(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(data)


@dataclass(frozen=True)
class DistantServer:
    """A running pair of moto and proxy."""

    endpoint: str  # of the proxy
    moto: str  # of the server itself, for uploads

    def delay(self, seconds: float) -> dict[str, float]:
        """Set the delay; ``requests``, ``head``, ``bytes`` since the last call, and ``cpu_s``."""
        with urllib.request.urlopen(f"{self.endpoint}/proxy/delay/{seconds}") as answer:
            return json.load(answer)

    def uri(self, path: str) -> str:
        host = self.endpoint.removeprefix("http://")
        return f"s3://{path}?endpoint_override={host}&scheme=http&region=us-east-1"


@contextmanager
def distant_server() -> Iterator[DistantServer]:
    """Both servers, in processes of their own, and credentials in the environment."""
    os.environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    moto_port, port = _free_port(), _free_port()
    moto = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(moto_port)]
    proxy = [sys.executable, __file__, str(port), f"127.0.0.1:{moto_port}"]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    servers = [subprocess.Popen(command, **quiet) for command in (moto, proxy)]
    try:
        for each in (moto_port, port):
            _wait_for(each)
        yield DistantServer(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{moto_port}")
    finally:
        for server in servers:
            server.kill()
            server.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        with socket.socket() as knock:
            if knock.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError(f"nothing listens on port {port}")


async def _serve(port: int, upstream: str) -> None:
    _Proxy.upstream = upstream
    server = await asyncio.get_running_loop().create_server(_Proxy, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), sys.argv[2]))
