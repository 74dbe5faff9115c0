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

from pulse_lib.files import REPOSITORY, read_json
from pulse_lib.profile import Profile, tuned_for
from pulse_lib.runs.kinds import SECTIONS, RunSpec, notebooks_folder

# These say where a run lies or which file the settings came from, not what it computes (the
# settings themselves count).
NOT_IDENTITY = ("out_dir", "profile")
# Files that hold wall times: two runs that computed the same differ in them.
TIMED = ("log.csv", "result.json", "manifest.json")


def code_hash(notebook: str) -> str:
    """sha256 of a notebook's code cells.

    Text cells, outputs and the `parameters` cell (its values count by themselves) do not count.
    """
    path = notebooks_folder() / f"{notebook}.ipynb"
    sources = []
    for cell in read_json(path).get("cells", []):
        tags = cell.get("metadata", {}).get("tags", [])
        if cell["cell_type"] == "code" and not {"parameters", "injected-parameters"} & set(tags):
            source = cell["source"]
            sources.append((source if isinstance(source, str) else "".join(source)).strip())
    return _sha256(json.dumps(sources).encode())


def library_hash() -> str:
    """sha256 over pulse_lib/**/*.py."""
    digest = hashlib.sha256()
    root = Path(__file__).parents[1]
    for path in sorted(root.rglob("*.py")):
        digest.update(
            path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0"
        )
    return digest.hexdigest()


def identity(spec: RunSpec, profile: Profile, manifests: Mapping[str, Mapping]) -> dict:
    """Everything that decides a run's result, as plain JSON. `manifests`: name of an input -> its
    manifest.
    """
    settings = plain(profile.as_dict())
    found = {
        "kind": spec.kind,
        "parameters": {k: v for k, v in spec.parameters.items() if k not in NOT_IDENTITY},
        "profile": relevant(spec.kind, spec.parameters, settings),
        "code": code_hash(spec.notebook),
        "inputs": {name: manifest["result"] for name, manifest in sorted(manifests.items())},
    }
    if "model" in found["profile"] and profile.model.path == "embedded":
        from pulse_lib.assets import asset_checksum

        found["model"] = asset_checksum(profile.model)
    return plain(found)


def relevant(kind: str, parameters: Mapping, settings: Mapping) -> dict:
    """The part of a profile's settings (as plain JSON) that a run of this kind depends on: its
    sections, and what its own method is tuned by, if anything.
    """
    sections = {name: settings[name] for name in SECTIONS[kind] if name in settings}
    tuned = tuned_for(
        settings.get("tuned", {}),
        parameters.get("scenario", "finetuned"),
        parameters.get("method", ""),
        parameters.get("policy", ""),
    )
    return sections | ({"tuned": tuned} if tuned else {})


def fingerprint(found: Mapping) -> str:
    """sha256 of an identity."""
    return _sha256(json.dumps(found, sort_keys=True).encode())


def explain(old: Mapping, new: Mapping, notebook: str) -> list[str]:
    """What differs between two identities, in words; empty if they agree."""
    reasons = []
    for section, settings in new["profile"].items():
        for key, value in settings.items():
            before = old["profile"].get(section, {}).get(key)
            if before != value:
                reasons.append(f"profile {section}.{key} was {before!r}, is {value!r}")
    for key in sorted({*old["parameters"], *new["parameters"]}):
        before, value = old["parameters"].get(key), new["parameters"].get(key)
        if before != value:
            reasons.append(f"parameter {key} was {before!r}, is {value!r}")
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
    return reasons or (
        []
        if fingerprint(old) == fingerprint(new)
        else ["it was made by another layout of the profile"]
    )


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
    try:
        done = subprocess.run(
            ["git", "-C", str(REPOSITORY), "rev-parse", "--verify", "HEAD"],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def file_hash(path: Path) -> str:
    """sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def plain(value: object) -> object:
    """`value` as it comes back from a JSON file (tuples are lists there)."""
    return json.loads(json.dumps(value))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
