"""The profile: every number that belongs to a model, a data set or a machine, read strictly from
one YAML file.

An unknown key, a missing key or a wrong type is an error that names file, key, value and fix.
Notebook parameters are the axes of a study (profile, scenario, method, seed ...) and are not here.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from pulse_lib.errors import PulseError
from pulse_lib.files import REPOSITORY

SCENARIOS = ("finetuned", "pretrained")
SEQUENTIAL = "sequential"  # in `tuned`, beside the scenarios: by method/policy
TRAINED_PARTS = ("projector+llm", "llm")
# The last two keep Adam's moments in 8 bits (bitsandbytes); paged: in CPU memory when the GPU's is full.
OPTIMIZERS = ("adamw", "muon", "adamw_8bit", "paged_adamw_8bit")


@dataclass(frozen=True)
class ModelSettings:
    """Which model, and how it is loaded and asked."""

    path: str  # "embedded" (shipped with the library), a local folder, or a hub id
    revision: str = ""  # hub revision to pin; "" for a folder
    # full: float32 on a CPU, 16 bits on a GPU; 16bit: on a CPU too; 8bit and 4bit: bitsandbytes
    load: str = field(default="full", metadata={"choices": ("full", "16bit", "8bit", "4bit")})
    answer_form: str = field(default="text", metadata={"choices": ("letter", "text")})
    prompt: str = "plain"  # an entry of pulse_lib.model.prompts.PROMPTS
    # What happens to a picture that is not square: cut by the processor, or padded as LLaVA does
    image_aspect: str = field(default="crop", metadata={"choices": ("crop", "pad")})
    gradient_checkpointing: bool = False  # half the speed, a fraction of the memory


@dataclass(frozen=True)
class DataSettings:
    """How many people each set holds, and how much of each person is trained on and asked."""

    source: str = field(default="world", metadata={"choices": ("world", "mllmu")})
    people_path: str = ""  # source mllmu: MLLMU-Bench, a local folder or a hub id
    people_revision: str = ""  # hub revision to pin; "" for a folder
    general_path: str = ""  # source mllmu: MMBench, a local file or folder, or a hub id
    general_revision: str = ""
    n_finetuned_forget: int = 50
    n_finetuned_retain: int = 50
    n_finetuned_retain_train: int = 25
    n_requests: int = 5
    n_candidates: int = 153  # celebrities measured for the pre-trained scenario
    n_pretrained_forget: int = 20
    n_pretrained_retain: int = 25
    n_holdout: int = 50
    n_general: int = 300  # general questions for evaluation; of MMBench: groups, 0 for all
    n_general_train: int = 200  # general conversations that fine-tuning may replay
    n_train_views: int = 6  # training renderings a person
    n_conversations: int = 2  # training conversations a person and modality while unlearning
    n_heldout_wordings: int = (
        1  # extra questions a person and modality in wordings never trained on
    )


@dataclass(frozen=True)
class FinetuneSettings:
    """LoRA fine-tuning on the fictitious people (scenario finetuned)."""

    rank: int = 16
    alpha: int = 32
    learning_rate: float = 4.0e-3
    epochs: int = 20
    batch_size: int = 16  # conversations
    warmup_steps: int = 20
    max_grad_norm: float = 1.0
    general_replay: float = 0.25  # share of each batch that is general conversations
    micro_batch: int = 8  # conversations read at once; the gradient is that of the whole batch
    optimizer: str = field(default="adamw", metadata={"choices": OPTIMIZERS})
    # Learning rate of LoRA's B matrices over that of its A matrices: 1 is LoRA, above it LoRA+
    loraplus_ratio: float = 1.0


@dataclass(frozen=True)
class UnlearnSettings:
    """LoRA unlearning, single-shot and sequential."""

    rank: int = 8
    alpha: int = 16
    learning_rate: float = 3.0e-3
    epochs_finetuned: int = 10  # per person; the same number in one shot and in five requests
    epochs_pretrained: int = 20
    batch_size: int = 20  # conversations
    warmup_steps: int = 0
    max_grad_norm: float = 1.0
    micro_batch: int = 8  # conversations read at once; the gradient is that of the whole batch
    optimizer: str = field(default="adamw", metadata={"choices": OPTIMIZERS})
    depth: float = 0.25  # of the layers: up to where rmu bends the hidden states
    reference: str = field(
        default="round_start", metadata={"choices": ("round_start", "target", "base")}
    )
    supervised_tokens: str = field(
        default="answer", metadata={"choices": ("answer", "whole_sequence")}
    )
    retain_source: str = field(
        default="retain_train", metadata={"choices": ("retain_train", "same")}
    )
    path_every: int = 4  # steps between cheap measurements
    path_dense_below: float = (
        0.9  # share of the starting forget accuracy below which every step is measured
    )
    matched_at: float = 0.35  # forget accuracy that defines the `matched` state
    # Stop rules, judged at each cheap measurement; 0: off
    stop_forget: float = 0.0  # stop once the forget accuracy is at or below this
    stop_utility: float = (
        0.0  # stop, and go back, once retain and general keep less than this share
    )
    replay_share: float = 0.25  # policy replay: people of earlier requests, as a share of the batch
    orthogonal_strength: float = 0.1  # policy orthogonal: weight of O3's penalty
    anchor_strength: float = 0.1  # policy anchor: weight of the pull to the round's start
    anchor_fisher: bool = False  # policy anchor: weighted by the Fisher information of retain_train
    # {seed} stands for the seed: a model pre-trained without the forget people, for method oracle
    oracle_model: str = ""

    def n_steps(self, n_conversations: int, epochs: int) -> int:
        """Steps of a whole run; an epoch's last short batch is one, too."""
        return math.ceil(n_conversations / self.batch_size) * epochs


@dataclass(frozen=True)
class EvaluateSettings:
    """Answering questions and measuring them."""

    batch_size: int = 64  # questions
    max_new_tokens: int = 8
    n_path_questions: int = 100  # questions of each set that a cheap measurement asks
    extraction_rules: str = "vlmevalkit_2024"
    n_bootstrap: int = 2000  # resamples of people for intervals


@dataclass(frozen=True)
class Profile:
    """A whole profile; `name` is the file's stem and the folder under outputs/."""

    name: str
    description: str
    model: ModelSettings
    data: DataSettings = DataSettings()
    finetune: FinetuneSettings = FinetuneSettings()
    unlearn: UnlearnSettings = UnlearnSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    # What `python -m pulse_lib search` found: scenario -> method -> learning_rate and the method's
    # own numbers; sequential -> method/policy -> the same. A method that is not there has the rate
    # of `unlearn` and the numbers of its row.
    tuned: dict = field(default_factory=dict)

    def unlearn_for(
        self, scenario: str, method: str, policy: str = ""
    ) -> tuple[UnlearnSettings, dict[str, float]]:
        """The unlearning settings of one method (sequential: with its policy), and the numbers that
        its row is tuned by.
        """
        values = tuned_for(self.tuned, scenario, method, policy)
        rate = values.pop("learning_rate", self.unlearn.learning_rate)
        return dataclasses.replace(self.unlearn, learning_rate=rate), values

    def as_dict(self) -> dict:
        """The resolved settings as nested plain dicts, for manifests."""
        return dataclasses.asdict(self)


def tuned_for(tuned: dict, scenario: str, method: str, policy: str = "") -> dict[str, float]:
    """What a profile's `tuned` holds for a run; for a sequential one of a pair that was not
    searched, what it holds for single-shot.
    """
    single = tuned.get(scenario, {}).get(method, {})
    return dict(tuned.get(SEQUENTIAL, {}).get(f"{method}/{policy}", single) if policy else single)


def profile_path(name: str) -> Path:
    """The YAML file of a profile: a name in params/, or a path ending in .yaml. Raises PulseError
    listing what there is."""
    path = (
        Path(name) if name.endswith((".yaml", ".yml")) else REPOSITORY / "params" / f"{name}.yaml"
    )
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in (REPOSITORY / "params").glob("*.yaml")))
        raise PulseError(f"profile {name!r}: no file {path}. Profiles there are: {known}")
    return path


def load_profile(name: str) -> Profile:
    """The profile read from params/<name>.yaml (or a .yaml path), checked key by key. Raises
    PulseError."""
    path = profile_path(name)
    try:
        raw = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise PulseError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(raw, dict):
        raise PulseError(f"{path}: expected a mapping of settings, found {type(raw).__name__}")
    if "name" in raw:
        raise PulseError(f"{path}: key 'name' is the file's name; remove it")
    profile = _build(Profile, {"name": path.stem, **raw}, str(path), "")
    _check_counts(profile, path)
    _check_tuned(profile, path)
    return profile


def _build(cls: type, raw: object, source: str, prefix: str):
    if not isinstance(raw, dict):
        raise PulseError(f"{source}: {prefix.rstrip('.')} must be a mapping, found {raw!r}")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key in raw:
        if key not in fields:
            raise PulseError(
                f"{source}: unknown key {prefix}{key!s}; known keys: {', '.join(sorted(fields))}"
            )
    values = {}
    for name, f in fields.items():
        if name in raw:
            values[name] = _value(
                hints[name], raw[name], f.metadata.get("choices"), source, prefix + name
            )
        elif f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise PulseError(f"{source}: key {prefix}{name} is missing")
    return cls(**values)


def _value(hint, value, choices, source: str, key: str):
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, source, key + ".")
    checked = check_type(hint, value, f"{source}: {key}")
    if choices and checked not in choices:
        raise PulseError(f"{source}: {key} = {value!r} is not one of {', '.join(choices)}")
    return checked


def check_type(hint, value, where: str):
    """`value` if it is of type `hint` (an int passes for a float), else PulseError naming `where`,
    the value and the fix."""
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    plain = (
        hint
        if isinstance(hint, type) and not isinstance(hint, types.GenericAlias)
        else typing.get_origin(hint)
    )
    if isinstance(value, plain) and not (isinstance(value, bool) and plain is not bool):
        return value
    hint_name = getattr(hint, "__name__", str(hint))
    fix = ""
    if hint is float and isinstance(value, str):
        fix = "; YAML reads 1e-4 as text: write 1.0e-4"
    raise PulseError(f"{where} = {value!r} is {type(value).__name__}, expected {hint_name}{fix}")


def _check_counts(profile: Profile, path: Path) -> None:
    d = profile.data
    if d.n_requests < 1 or d.n_finetuned_forget % d.n_requests:
        raise PulseError(
            f"{path}: data.n_finetuned_forget = {d.n_finetuned_forget} must be a multiple of data.n_requests = {d.n_requests}"
        )
    if d.n_pretrained_forget + d.n_pretrained_retain > d.n_candidates:
        raise PulseError(
            f"{path}: data.n_pretrained_forget + n_pretrained_retain is more than data.n_candidates = {d.n_candidates}"
        )
    if d.source == "mllmu":
        _check_benchmarks(profile, path)
    for section in ("finetune", "unlearn"):
        if getattr(profile, section).micro_batch < 1:
            raise PulseError(f"{path}: {section}.micro_batch = 0 must be 1 or more")
    for section in ("data", "finetune", "unlearn", "evaluate"):
        for key, value in dataclasses.asdict(getattr(profile, section)).items():
            if isinstance(value, int | float) and value < 0:
                raise PulseError(f"{path}: {section}.{key} = {value} must not be negative")


def _check_tuned(profile: Profile, path: Path) -> None:
    from pulse_lib.methods import get  # the tables, without torch
    from pulse_lib.strategies import get_strategy

    known = (*SCENARIOS, SEQUENTIAL)
    for scenario, found in profile.tuned.items():
        if scenario not in known:
            raise PulseError(f"{path}: tuned.{scenario} is not one of {', '.join(known)}")
        for name, values in check_type(dict, found, f"{path}: tuned.{scenario}").items():
            where = f"{path}: tuned.{scenario}.{name}"
            for key, value in check_type(dict, values, where).items():
                check_type(float, value, f"{where}.{key}")
            pair = scenario == SEQUENTIAL
            method, _, policy = name.partition("/") if pair else (name, "", "")
            try:
                if pair:
                    get_strategy(policy)
                get(method).tuned(profile.unlearn_for(scenario, method, policy)[1])
            except PulseError as error:
                raise PulseError(f"{where}: {error}") from None


def _check_benchmarks(profile: Profile, path: Path) -> None:
    """What source mllmu needs, before anything is downloaded."""
    d, replay = profile.data, profile.finetune.general_replay
    if not d.people_path or not d.general_path:
        key = "general_path" if d.people_path else "people_path"
        raise PulseError(
            f"{path}: data.source = mllmu needs data.{key}: a local folder or a hub id"
        )
    if d.n_general_train or replay:
        raise PulseError(
            f"{path}: data.n_general_train = {d.n_general_train} and finetune.general_replay = {replay} "
            "must both be 0 with data.source = mllmu: MMBench is only scored, never trained on"
        )
