"""What a run is made from, reduced to what decides its result, and the circumstances that its
manifest notes besides.
"""

from __future__ import annotations

import hashlib
import json
import resource
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TypeVar

from pulse_lib import machine
from pulse_lib.files import INSTALLED, KIT
from pulse_lib.profile import OWN, Profile
from pulse_lib.runs.kinds import RunSpec, fields
from pulse_lib.runs.library import code_cells

# These say where a run lies or which file the settings came from, not what it computes (the
# settings themselves count).
NOT_IDENTITY = ("out_dir", "profile")
# Files that hold wall times: two runs that computed the same differ in them.
TIMED = ("log.csv", "result.json", "manifest.json")
T = TypeVar("T")


def code_hash(notebook: str) -> str:
    """sha256 of a notebook's code cells.

    Text cells, outputs and the `parameters` cell (its values count by themselves) do not count.
    """
    return _sha256(json.dumps(code_cells(notebook)).encode())


def identity(spec: RunSpec, profile: Profile, *, manifests: Mapping[str, Mapping]) -> dict:
    """Everything that decides a run's result but for the library, as plain JSON. `manifests`: name
    of an input -> its manifest.
    """
    found = {
        "kind": spec.kind,
        "parameters": {k: v for k, v in spec.parameters.items() if k not in NOT_IDENTITY},
        "profile": fields(spec.kind, spec.parameters, profile=profile),
        "code": code_hash(spec.notebook),
        "inputs": {name: manifest["result"] for name, manifest in sorted(manifests.items())},
    }
    if found["profile"].get("model.path") == "embedded":
        from pulse_lib.assets import asset_checksum

        found["model"] = asset_checksum(profile.model)
    pattern = found["profile"].get("unlearn.oracle_model")
    if pattern and spec.parameters.get("scenario") == "pretrained":
        from pulse_lib.assets import oracle_checksum

        found["oracle"] = oracle_checksum(str(pattern), int(str(spec.parameters["seed"])))
    if found["profile"].get("data.people.source") in OWN:
        from pulse_lib.data.source import checksum_of  # own files change, published ones do not

        found["people"] = checksum_of(profile.data)
    return plain(found)


def fingerprint(found: Mapping) -> str:
    """sha256 of an identity."""
    return _sha256(json.dumps(found, sort_keys=True).encode())


def explain(old: Mapping, new: Mapping, *, notebook: str) -> list[str]:
    """What differs between two identities, in words; empty if they agree."""
    reasons = differing(old["profile"], new["profile"], word="profile")
    reasons += differing(old["parameters"], new["parameters"], word="parameter")
    if old["code"] != new["code"]:
        reasons.append(f"code cells of {notebook} changed")
    for name in sorted({*old["inputs"], *new["inputs"]}):
        if name not in old["inputs"]:
            reasons.append(f"new input {name}")
        elif name not in new["inputs"]:
            reasons.append(f"input {name} is no longer used")
        elif old["inputs"][name] != new["inputs"][name]:
            reasons.append(f"input {name} changed")
    if old.get("model") != new.get("model"):
        reasons.append("the embedded model changed")
    if old.get("oracle") != new.get("oracle"):
        reasons.append("the model pre-trained without the forget people changed")
    if old.get("people") != new.get("people"):
        reasons.append("the table or a photo of the people changed")
    return reasons


def differing(old: Mapping, new: Mapping, *, word: str) -> list[str]:
    """Which values differ between two mappings, in words: "profile finetune.epochs was 3, is 4"."""
    return [
        f"{word} {key} was {old.get(key)!r}, is {new.get(key)!r}"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key)
    ]


def result_hash(mark: str, files: Mapping[str, Mapping]) -> str:
    """sha256 of what a run computed: its fingerprint and its files but for those that hold wall
    times.
    """
    kept = {name: entry["sha256"] for name, entry in files.items() if Path(name).name not in TIMED}
    return _sha256(json.dumps([mark, kept], sort_keys=True).encode())


def circumstances() -> dict:
    """Versions, device and peak memory of this process, and the git commit, for a manifest."""
    versions = {"python": ".".join(map(str, sys.version_info[:3]))}
    for package in ("torch", "transformers", "peft", "bitsandbytes", "pandas", "pulse-kit"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        2**20 if sys.platform == "darwin" else 2**10
    )
    found = {
        "git_commit": _git_commit(),
        "versions": versions,
        "device": "cpu",
        "processor": machine.processor(),
        "peak_memory_mib": round(peak, 1),
    }
    torch = sys.modules.get(
        "torch"
    )  # never imported for this: a run without torch had no use for a device
    if torch is not None and torch.cuda.is_available():
        found["device"] = torch.cuda.get_device_name(0)
        found["peak_gpu_memory_mib"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
    return found


def _git_commit() -> str | None:
    if INSTALLED:
        return None  # a repository around the environment would not be the kit's
    try:
        done = subprocess.run(
            ["git", "-C", str(KIT), "rev-parse", "--verify", "HEAD"],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def plain(value: T) -> T:
    """`value` as it comes back from a JSON file (tuples are lists there)."""
    return json.loads(json.dumps(value))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
