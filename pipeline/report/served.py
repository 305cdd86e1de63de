"""A report that is served on loopback while its run goes on, and made anew after each round."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from pipeline.errors import UserError
from pipeline.manifest import Damaged
from pipeline.report.assembly import ReportTask, make_report
from pipeline.run import Run
from pipeline.status import status_of
from pipeline.telemetry.console import say

_LOOK_EVERY_S = 10.0


class _Handler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: Any) -> None:
        """Requests are not worth a line each."""

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-cache")  # data changes from round to round
        super().end_headers()


def serve(task: ReportTask, port: int) -> None:
    """Serve the report until the process is interrupted.

    Args:
        port: of 127.0.0.1; 0: any that is free.

    Raises:
        UserError: the folder is not on this machine, or the port is taken.
    """
    with _served(task, port) as address:
        made: tuple[Any, ...] = ()
        while True:
            status = status_of(task.run.location)
            now = (status["state"], status["done"], len(status["by_round"]))
            if now != made:
                live = status["state"] == "working"
                run = Run.existing(task.run.location.full_uri)
                try:
                    make_report(replace(task, run=run, live=live))
                    made = now
                    say(f"round {status['done']} · {status['state']} · {address}")
                except (Damaged, FileNotFoundError) as error:
                    # A run at work deletes the features of the round before.
                    say(f"the run went on meanwhile ({error}); trying again")
            time.sleep(_LOOK_EVERY_S)


@contextmanager
def _served(task: ReportTask, port: int) -> Iterator[str]:
    if not task.out.is_local:
        raise UserError(f"--serve needs a folder on this machine, not {task.out}")
    handler = partial(_Handler, directory=task.out.path)
    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    except OSError as error:
        raise UserError(f"port {port} cannot be used: {error}; name another one") from error
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
