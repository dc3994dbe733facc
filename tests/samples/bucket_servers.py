"""Real servers of object stores on loopback, each a process that is stopped by its id."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["SECRET", "credentials", "localbucket_serving", "made_bucket", "moto_serving"]

SECRET = "a-secret-of-the-tests"
BUCKET = "team-models"

_MOTO = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


def credentials() -> dict[str, str]:
    """What a client of these servers finds in its environment; nothing of the user's."""
    return {
        "AWS_ACCESS_KEY_ID": "an-id-of-the-tests",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
    }


def made_bucket(endpoint: str, name: str = BUCKET) -> str:
    """Make a bucket on a server, and say its address."""
    signed = {"Authorization": "AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/s3/aws4_request"}
    request = urllib.request.Request(f"{endpoint}/{name}", data=b"", method="PUT", headers=signed)
    urllib.request.urlopen(request, timeout=10).close()
    return f"s3://{name}"


@contextmanager
def moto_serving() -> Iterator[str]:
    """Serve moto's S3 while the block runs; its endpoint."""
    command = [sys.executable, "-W", "ignore", "-c", _MOTO]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        try:
            yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        finally:
            server.kill()


@contextmanager
def localbucket_serving(folder: Path) -> Iterator[str]:
    """Serve a folder by localbucket while the block runs; its endpoint."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable,
        "-c",
        "import localbucket; localbucket.main()",
        "--port",
        str(port),
        str(folder),
    ]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, env=os.environ | {"PYTHONWARNINGS": "ignore"}, **quiet) as server:
        try:
            _wait_for(port)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.kill()


def _wait_for(port: int) -> None:
    for _ in range(200):
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise TimeoutError(f"nothing listens on port {port}")
