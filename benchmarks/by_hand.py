"""Run a notebook by hand in a real JupyterLab: python benchmarks/by_hand.py NOTEBOOK KEY=VALUE ...

Starts JupyterLab's server on a free port, opens the notebook as a session in it and sends its cells
to the kernel one after another, as the browser does; the values (Python literals) are assigned after
the cell of parameters. Ends with code 0 if every cell ran, else 1. An interrupt goes to the kernel,
as the button with the square does; a kernel that dies ends it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from pathlib import Path

import nbformat
import websocket

from pulse_lib.files import REPOSITORY

TOKEN = "by-hand"
START_SECONDS, CELL_SECONDS = 60, 200


def main() -> int:
    path = REPOSITORY / "notebooks" / f"{sys.argv[1]}.ipynb"
    given = "\n".join(word.replace("=", " = ", 1) for word in sys.argv[2:])
    with tempfile.TemporaryDirectory() as runtime:
        words = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ServerApp.port=0"]
        words += [f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={REPOSITORY}"]
        words += ["--allow-root"] * (os.geteuid() == 0)
        server = subprocess.Popen(
            words,
            env=os.environ | {"JUPYTER_RUNTIME_DIR": runtime},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # an interrupt of this process is for the kernel alone
        )
        try:
            return run(path, given, address=wait_for(Path(runtime), server))
        finally:
            server.terminate()
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:  # it waits for a kernel that it has just begun again
                server.kill()
                server.wait()


def wait_for(runtime: Path, server: subprocess.Popen) -> str:
    """The server's address, once it answers."""
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and server.poll() is None:
        for file in runtime.glob("jpserver-*.json"):
            return json.loads(file.read_text())["url"]
        time.sleep(0.1)
    raise SystemExit("JupyterLab did not start")


def call(address: str, path: str, *, body: dict | None = None) -> dict:
    """The answer of the server's REST interface to a POST."""
    request = urllib.request.Request(
        f"{address}api/{path}",
        data=json.dumps(body or {}).encode(),
        headers={"Authorization": f"token {TOKEN}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=START_SECONDS) as answer:
        text = answer.read()
        return json.loads(text) if text else {}


def run(path: Path, given: str, *, address: str) -> int:
    """0 if all cells of the notebook ran in a session of its own."""
    place = path.relative_to(REPOSITORY).as_posix()
    body = {"path": place, "name": path.name, "type": "notebook", "kernel": {"name": "python3"}}
    session = call(address, "sessions", body=body)
    kernel_id = session["kernel"]["id"]
    socket = websocket.create_connection(
        f"{address.replace('http', 'ws', 1)}api/kernels/{kernel_id}/channels",
        header=[f"Authorization: token {TOKEN}"],
        timeout=CELL_SECONDS,
    )
    for cell in nbformat.read(path, 4).cells:
        if cell.cell_type != "code":
            continue
        codes = (
            [cell.source, given] if "parameters" in cell.metadata.get("tags", []) else [cell.source]
        )
        for code in codes:
            try:
                ended = execute(socket, code)
            except KeyboardInterrupt:
                call(address, f"kernels/{kernel_id}/interrupt")
                ended = False
            if not ended:
                return 1
    return 0


def execute(socket: websocket.WebSocket, code: str) -> bool:
    """Run one cell; True if it ended well, False if it raised or its kernel died."""
    asked = uuid.uuid4().hex
    header = {"msg_id": asked, "msg_type": "execute_request", "session": asked, "username": ""}
    content = {"code": code, "silent": False, "store_history": True, "stop_on_error": True}
    message = {"channel": "shell", "header": header, "content": content}
    socket.send(json.dumps(message | {"parent_header": {}, "metadata": {}}))
    while True:
        said = json.loads(socket.recv())
        if said["content"].get("execution_state") in ("restarting", "dead"):
            return False
        if said["msg_type"] == "execute_reply" and said["parent_header"].get("msg_id") == asked:
            return said["content"]["status"] == "ok"


if __name__ == "__main__":
    sys.exit(main())
