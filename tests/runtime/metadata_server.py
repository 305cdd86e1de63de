"""A real HTTP server that speaks the protocols of the clouds' metadata services."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

_TOKEN = "a-session-token"


class MetadataServer(ThreadingHTTPServer):
    """Set `notice` to have the node taken back.

    Attributes:
        notice: AWS: when, as ISO 8601 with ``Z``; Google Cloud: anything; empty: not yet.
        broken: requests still to be answered with status 503.
    """

    def __init__(self, cloud: Literal["aws", "gcp"]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.cloud = cloud
        self.notice = ""
        self.broken = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: MetadataServer

    def do_PUT(self) -> None:
        asks_for_token = self.path == "/latest/api/token" and self.server.cloud == "aws"
        if asks_for_token and self.headers["X-aws-ec2-metadata-token-ttl-seconds"]:
            self._answer(200, _TOKEN)
        else:
            self._answer(404 if self.server.cloud == "aws" else 405)

    def do_GET(self) -> None:
        if self.server.broken:
            self.server.broken -= 1
            self._answer(503)
        elif self.server.cloud == "aws":
            self._aws()
        else:
            self._gcp()

    def _aws(self) -> None:
        if self.headers["X-aws-ec2-metadata-token"] != _TOKEN:
            self._answer(401)
        elif self.path == "/latest/meta-data/spot/instance-action" and self.server.notice:
            self._answer(200, json.dumps({"action": "terminate", "time": self.server.notice}))
        else:
            self._answer(404)

    def _gcp(self) -> None:
        if self.headers["Metadata-Flavor"] != "Google":
            self._answer(403)
        elif self.path == "/computeMetadata/v1/instance/preempted":
            self._answer(200, "TRUE" if self.server.notice else "FALSE")
        else:
            self._answer(404)

    def _answer(self, status: int, text: str = "") -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@contextlib.contextmanager
def metadata_server(cloud: Literal["aws", "gcp"]) -> Iterator[MetadataServer]:
    server = MetadataServer(cloud)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
