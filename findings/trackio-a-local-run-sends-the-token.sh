#!/usr/bin/env bash
# A run of trackio that is kept on this machine, with no Space and no server named, asks the hub who the user is, and sends the
# user's token with the question. Nothing of the run needs it: the name is written into the run's configuration, as `_Username`.
#
# Versions: trackio 0.43.0, huggingface_hub 2.4.0.
# Guess before looking: `trackio.init(project=...)` writes to a local SQLite and makes no request, as its documentation says
# "local-first".
# Seen: two requests before the first figure is logged, GET /api/agent-harnesses and GET /api/whoami-v2, the second with
# `Authorization: Bearer <token>`. A hub that is slow to answer holds `init` up. HF_HUB_OFFLINE=1, set before huggingface_hub is
# loaded, prevents both.
# Why it matters: a build that is said to ask no network asked one, in each training. `dem` opens trackio with the hub's client
# offline, but where the user names a Space or a server.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
env=${PYTHON_ENV:-$work/env}
if [ ! -e "$env" ]; then
  python3 -m venv "$env"
  "$env/bin/python" -m pip install --quiet --disable-pip-version-check trackio==0.43.0 huggingface_hub==2.4.0
fi
TRACKIO_DIR=$work/trackio HF_HOME=$work/hf "$env/bin/python" - <<'PYTHON'
import json
import os
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

asked = []


class Hub(BaseHTTPRequestHandler):
    def do_GET(self):
        asked.append((self.path, self.headers.get("authorization")))
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps({"name": "somebody", "type": "user", "auth": {}}).encode())

    def log_message(self, *_):
        pass


server = HTTPServer(("127.0.0.1", 0), Hub)
Thread(target=server.serve_forever, daemon=True).start()
os.environ |= {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_TOKEN": "hf_of_a_user"}
os.environ.pop("HF_HUB_OFFLINE", None)

import trackio

run = trackio.init(project="local", name="run", embed=False, auto_log_gpu=False, auto_log_cpu=False)
run.log({"loss": 1.0}, step=1)
run.finish()
print("trackio", trackio.__version__, "asked:", asked)
sys.exit(int(("/api/whoami-v2", "Bearer hf_of_a_user") not in asked))
PYTHON
