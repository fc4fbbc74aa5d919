"""One page of a small server, opened in Chromium: what it posts is the result."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Empty, Queue
from typing import Any

SECONDS = 120
NAMES = ("chromium", "chromium-browser", "google-chrome")


def chromium() -> str | None:
    """The browser, None where there is none."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class _Handler(SimpleHTTPRequestHandler):
    def __init__(self, *given: Any, results: Queue[Any], **more: Any) -> None:
        self.results = results
        super().__init__(*given, **more)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()
        self.results.put(json.loads(body))

    def log_message(self, *_: Any) -> None:
        pass


def posted(browser: str, folder: Path, page: str) -> Any:
    """What a page posts to /result.

    Args:
        browser: the program.
        folder: what is served.
        page: its name in the folder.

    Raises:
        AssertionError: if nothing is posted in time.
    """
    results: Queue[Any] = Queue()
    with (
        ThreadingHTTPServer(
            ("127.0.0.1", 0), partial(_Handler, results=results, directory=str(folder))
        ) as server,
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place = f"http://127.0.0.1:{server.server_address[1]}/{page}"
        options = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            # A container may have little shared memory.
            "--disable-dev-shm-usage",
            f"--user-data-dir={profile}",
        ]
        opened = subprocess.Popen(
            [browser, *options, place], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            return results.get(timeout=SECONDS)
        except Empty:
            raise AssertionError(f"{browser} posted nothing in {SECONDS} s") from None
        finally:
            opened.terminate()
            opened.wait()
            server.shutdown()
