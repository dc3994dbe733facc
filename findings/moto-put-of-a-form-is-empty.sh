#!/usr/bin/env bash
# moto's S3 server answers 200 to a PUT whose Content-Type is that of a form, and stores an object of no bytes: the body was
# taken for form fields. It is what `curl --data-binary` and Python's urllib send where nobody names a type.
#
# Versions: moto 5.2.5, Flask 3.1.3, flask-cors 6.0.5.
# Known: moto's issue 3363 tells the same of moto 1.3.16, and is closed.
# Guess before looking: a PUT stores its body whatever the type is called, as the same server does for every other type.
# Seen: 200 both times; of ten bytes, ten with application/octet-stream, and none with application/x-www-form-urlencoded.
# Why it matters: a test that places an object by a plain PUT reads nothing back, and may pass for it. `dem` hashes what
# arrives, and its tests name the type.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
env=${PYTHON_ENV:-$work/env}
if [ ! -e "$env" ]; then
  python3 -m venv "$env"
  "$env/bin/python" -m pip install --quiet --disable-pip-version-check 'moto[s3]==5.2.5' Flask==3.1.3 flask-cors==6.0.5
fi
"$env/bin/python" - <<'PYTHON'
import sys
from http.client import HTTPConnection
from importlib.metadata import version

from moto.server import ThreadedMotoServer

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
SIGNED = {"Authorization": "AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/s3/aws4_request"}


def ask(method, path, body=b"", **headers):
    connection = HTTPConnection(host, port)
    connection.request(method, path, body, SIGNED | {name.replace("_", "-"): value for name, value in headers.items()})
    reply = connection.getresponse()
    return reply.status, reply.read()


print("moto", version("moto"))
assert ask("PUT", "/bucket")[0] == 200
seen = {}
for kind in ("application/octet-stream", "application/x-www-form-urlencoded"):
    status, _ = ask("PUT", "/bucket/object", b"0123456789", Content_Type=kind)
    seen[kind] = status, ask("GET", "/bucket/object")[1]
    print(kind, *seen[kind])
server.stop()
sys.exit(list(seen.values()) != [(200, b"0123456789"), (200, b"")])
PYTHON
