"""What the hub answers, told apart: gated, private, mistyped, another revision, a login that is too old;
each with the step that helps. Against a hub of this test's own, through the hub's own client."""

import json
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pulse_lib.data import hub
from pulse_lib.errors import PulseError
from pulse_lib.files import REPOSITORY

# repository -> status, the hub's own headers, words of the reason and of the step
ANSWERS = {
    "o/gated": (401, {"X-Error-Code": "GatedRepo"}, "is gated: log in", "ask for access on"),
    "o/asked": (403, {"X-Error-Code": "GatedRepo"}, "is gated: ask for access on", "/o/asked"),
    "o/mistyped": (401, {}, "no model of this name, or it is private", "check the spelling"),
    "o/private": (404, {"X-Error-Code": "RepoNotFound"}, "this login may not see it", "hf auth login"),
    "o/revision": (404, {"X-Error-Code": "RevisionNotFound"}, "but not this revision", "model.revision"),
    "o/old": (
        401,
        {"X-Error-Message": "Invalid credentials in Authorization header"},
        "does not accept this machine's login",
        "hf auth login",
    ),
    "o/forbidden": (403, {}, "may not read it", "a token that may read"),
    "o/closed": (403, {"X-Error-Message": "Access to this resource is disabled."}, "has closed", "copy"),
    "o/bad name": (200, {}, "no name of the hub", "owner/name"),
}  # fmt: skip
# Not an answer: the command that would fetch it is the step.
LATER = {"o/broken": (500, {}), "o/busy": (429, {})}

CODE = """
import json, sys, time
from pulse_lib.data import hub, source
from pulse_lib.errors import PulseError
from pulse_lib.profile import load_profile
from dataclasses import replace

def said(call, *args):
    start = time.monotonic()
    try:
        call(*args)
        return ["nothing", 0]
    except PulseError as error:
        return [str(error), time.monotonic() - start]

profile = load_profile("smoke")
found = {}
for name in json.loads(sys.argv[1]):
    need = hub.model_need(name, "v9")
    named = replace(profile, model=replace(profile.model, path=name, revision="v9"))
    found[name] = [said(hub.folder_of, need), said(source.check_there, named)]
print(json.dumps(found))
"""


class Hub(BaseHTTPRequestHandler):
    """Answers every question about a repository with its status."""

    def do_GET(self):
        name = next(n for n in (*ANSWERS, *LATER) if f"/{n}" in self.path)
        status, headers = (ANSWERS | LATER)[name][:2]
        body = b'{"error": "as the test says"}'
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """Repository -> what `folder_of` and `check_there` say, and in how many seconds."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {k: v for k, v in os.environ.items() if "proxy" not in k.lower()}
    environment |= {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path_factory.mktemp("home")),
        "HF_HUB_OFFLINE": "0",
    }
    names = json.dumps([*ANSWERS, *LATER])
    done = subprocess.run(
        [sys.executable, "-c", CODE, names],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
    )
    server.shutdown()
    server.server_close()
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", ANSWERS)
def test_each_refusal_has_its_reason_and_its_step(said, name):
    *_, reason, step = ANSWERS[name]
    for text, seconds in said[name]:
        assert f"model.path = '{name}' at revision v9: " in text and reason in text and step in text
        assert "hf download" not in text, "fetching again is no help"
        assert "Traceback" not in text and seconds < 10
    others = [r for n, (*_, r, _) in ANSWERS.items() if n != name]
    assert not any(other in said[name][0][0] for other in others)


@pytest.mark.parametrize("name", LATER)
def test_a_hub_in_trouble_is_asked_again_later(said, name):
    for text, _ in said[name]:
        assert f"hf download {name} --revision v9" in text


def test_a_full_disk_is_no_missing_network():
    need = hub.model_need("o/full", "")
    error = OSError(28, "No space left on device")
    found = hub.failure(need, error)
    assert found.denied and "HF_HOME" in found.why
    assert not hub.failure(need, ConnectionError("no route")).denied


# --- the cache --------------------------------------------------------------------------------

COMMIT = "a" * 40


@pytest.fixture
def snapshot(tmp_path, monkeypatch):
    """A cached model, as the hub's client keeps it: links to blobs; no network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    root = tmp_path / "models--o--model"
    folder = root / "snapshots" / COMMIT
    for path in (root / "blobs", folder):
        path.mkdir(parents=True)
    for k, name in enumerate(["config.json", "tokenizer.json", "model.safetensors"]):
        (root / "blobs" / str(k)).write_text("{}")
        (folder / name).symlink_to(f"../../blobs/{k}")
    return folder


def test_a_cached_snapshot_with_links_is_used(snapshot):
    need = hub.model_need("o/model", COMMIT)
    assert hub.cached(need) == hub.folder_of(need) == snapshot


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_link_that_leads_nowhere_makes_the_snapshot_incomplete(snapshot, name):
    (snapshot / name).resolve().unlink()
    need = hub.model_need("o/model", COMMIT)
    start = time.monotonic()
    assert hub.cached(need) is None
    with pytest.raises(PulseError, match=f"hf download o/model --revision {COMMIT}"):
        hub.folder_of(need)
    assert time.monotonic() - start < 10
