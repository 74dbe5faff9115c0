"""The settings that a profile holds, section by section, each key with its type and range.

A default is what profiles share (a test finds one in params/ that relies on it); what each has to
choose has none.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import field
from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import ConfigDict, Field, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from pulse_lib.errors import PulseError
from pulse_lib.profile.said import said
from pulse_lib.profile.tuned import EPOCHS, RATE, SCENARIOS, check_tuned, tuned_for

TrainedPart = Literal["projector+llm", "llm"]
# full: float32 on a CPU, 16 bits on a GPU; 16bit: on a CPU too; 8bit and 4bit: bitsandbytes
Load = Literal["full", "16bit", "8bit", "4bit"]
AnswerForm = Literal["letter", "text"]
# pulse_lib.model.prompts; chat: the checkpoint's own chat template
PromptName = Literal["plain", "vicuna_v1", "mllmu", "chat"]
# What happens to a picture that is not square: cut by the processor, or padded as LLaVA does; full:
# in the size and tiles that the checkpoint's processor gives it, many more tokens
ImageAspect = Literal["crop", "pad", "full"]
# A new source is a word here and a row in pulse_lib/data/source.py: docs/add_a_data_source.md
PeopleSource = Literal["world", "mllmu", "folder", "umu", "ppu", "ppu_selective", "fiu", "clear"]
GeneralSource = Literal["world", "mmbench", "folder", "pope", "mme"]
# Of these, what may be asked beside the general questions as well: what was published
Benchmark = Literal["mmbench", "pope", "mme"]
DRAWN = ("world",)  # needs no files; every other source has a path
OWN = ("folder",)  # a folder of the user's: no hub, no revision
# Each fact is asked in both modalities, under one category
TWINS = ("umu", "ppu", "ppu_selective", "fiu")
UNKNOWN = ("folder", "fiu", "clear")  # nobody whom the base model knows
KNOWN = ("ppu", "ppu_selective")  # real people only: nobody to be taught
ONLY_SCORED = ("mmbench", "folder", "pope", "mme")  # general questions that are never trained on
# The last two keep Adam's moments in 8 bits (bitsandbytes); paged: in CPU memory when the GPU's is full
Optimizer = Literal["adamw", "muon", "adamw_8bit", "paged_adamw_8bit"]
Reference = Literal["round_start", "target", "base"]
SupervisedTokens = Literal["answer", "whole_sequence"]
RetainSource = Literal["retain_train", "same"]
# accuracy: the most accurate, as the paper does; known: of those who are known in every order of the
# options, in other words, and from the picture (pulse_lib/evaluate/eligibility.py)
Eligibility = Literal["accuracy", "known"]
# both: by what it says and by which option is the likeliest; generation: by what it says alone
MatchedBy = Literal["both", "generation"]
ExtractionRules = Literal["vlmevalkit_2024", "vlmevalkit_2026", "lmms_eval", "mllmu"]

TRAINED_PARTS: tuple[TrainedPart, ...] = get_args(TrainedPart)

MOST = 1_000_000_000  # more is a slip of the finger, and no library below takes it
Count = Annotated[
    int,
    Field(strict=True, ge=1, le=MOST, description=f"a whole number, 1 or more, at most {MOST}"),
]
CountOrNone = Annotated[
    int,
    Field(strict=True, ge=0, le=MOST, description=f"a whole number, 0 or more, at most {MOST}"),
]
Positive = Annotated[
    float, Field(strict=True, allow_inf_nan=False, gt=0, description="a number above 0")
]
NotNegative = Annotated[
    float, Field(strict=True, allow_inf_nan=False, ge=0, description="a number, 0 or more")
]
Share = Annotated[
    float, Field(strict=True, allow_inf_nan=False, ge=0, le=1, description="a number from 0 to 1")
]
ShareBelowOne = Annotated[
    float,
    Field(
        strict=True, allow_inf_nan=False, ge=0, lt=1, description="a number, 0 or more and below 1"
    ),
]
ShareAboveNone = Annotated[
    float,
    Field(strict=True, allow_inf_nan=False, gt=0, le=1, description="a number above 0, at most 1"),
]
Switch = Annotated[bool, Field(strict=True, description="true or false")]
Text = Annotated[str, Field(strict=True, description="text")]
Name = Annotated[str, Field(strict=True, min_length=1, description="text, not empty")]
Tuned = dict[str, dict[str, dict[str, NotNegative]]]

_STRICT = ConfigDict(extra="forbid", validate_default=False)


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Settings:
    """What all sections can do."""

    def with_values(self, **changes: object) -> Self:
        """The same settings with some values changed. Raises PulseError for one that is not
        allowed.
        """
        try:
            return dataclasses.replace(self, **changes)
        except ValidationError as error:
            _, message = said(error, type(self))
            raise PulseError(message) from None


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class ModelSettings(Settings):
    """Which model, and how it is loaded and asked."""

    path: Name  # "embedded" (shipped with the library), a local folder, or a hub id
    revision: Text = ""  # hub revision to pin; "" for a folder
    load: Load = "full"
    answer_form: AnswerForm = "text"
    prompt: PromptName = "plain"
    image_aspect: ImageAspect = "crop"
    gradient_checkpointing: Switch = False  # half the speed, a fraction of the memory


def _check_path(source: str, path: str, *, revision: str) -> None:
    if source not in DRAWN and not path:
        raise ValueError(f"source = {source} needs path: a local file or folder, or a hub id")
    if source in DRAWN and (path or revision):
        raise ValueError(
            f"source = {source} reads no files, so that path = {path!r} and revision = "
            f"{revision!r} would do nothing: remove them, or name the source that they are of"
        )
    if source in OWN and revision:
        raise ValueError(
            f"source = {source} reads a folder of yours, so that revision = {revision!r} would do "
            "nothing: remove it"
        )


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class PeopleSettings(Settings):
    """Where people come from."""

    source: PeopleSource = "world"
    # mllmu, umu, ppu, fiu, clear: MLLMU-, UMU-, PPU- and FIUBench, CLEAR, a local folder or a hub id;
    # ppu_selective: of people to forget, the sensitive facts only; folder: photos and questions.csv
    path: Text = ""
    revision: Text = ""  # hub revision to pin; "" for a folder

    @model_validator(mode="after")
    def _path(self) -> Self:
        _check_path(self.source, self.path, revision=self.revision)
        return self


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class GeneralSettings(Settings):
    """Where general questions come from."""

    source: GeneralSource = "world"
    # mmbench, pope, mme: the benchmark, a local file or folder, or a hub id; folder: general.csv
    # and its photos
    path: Text = ""
    revision: Text = ""

    @model_validator(mode="after")
    def _path(self) -> Self:
        _check_path(self.source, self.path, revision=self.revision)
        return self

    @property
    def path_key(self) -> str:
        """The profile's key of `path`, for messages."""
        return "data.general.path"

    @property
    def n_key(self) -> str:
        """The profile's key of how many questions are asked, for messages."""
        return "data.n_general"


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class _Beside(GeneralSettings):
    """A benchmark in the place of the general questions, as its source's module reads it."""

    @property
    def path_key(self) -> str:
        return f"data.benchmarks.{self.source}.path"

    @property
    def n_key(self) -> str:
        return f"data.benchmarks.{self.source}.n"


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class BenchmarkSettings(Settings):
    """One benchmark that is asked beside the general questions."""

    path: Name  # a local file or folder, or a hub id
    revision: Text = ""  # hub revision to pin; "" for a folder
    n: Count | None = None  # questions; of MMBench groups, of MME pairs; left out: all


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class DataSettings(Settings):
    """How many people each set holds, and how much of each person is trained on and asked."""

    people: PeopleSettings = PeopleSettings()
    general: GeneralSettings = GeneralSettings()
    # Asked beside them where a model state is measured in full, and counted as nothing else
    benchmarks: dict[Benchmark, BenchmarkSettings] = field(default_factory=dict)
    # The protocol's counts [PULSE, Section 4]; of the fine-tuned people 0 where there are none
    n_finetuned_forget: CountOrNone = 50
    n_finetuned_retain: CountOrNone = 50
    n_finetuned_retain_train: CountOrNone = 25
    n_requests: Count = 5
    n_candidates: CountOrNone = 153  # celebrities measured for the pre-trained scenario
    eligibility: Eligibility = "accuracy"  # who of them may be selected
    n_pretrained_forget: CountOrNone = 20
    n_pretrained_retain: CountOrNone = 25
    n_holdout: CountOrNone = 50
    # general questions for evaluation; of MMBench groups, of MME pairs; 0: all
    n_general: CountOrNone
    n_general_train: CountOrNone  # general conversations that fine-tuning may replay
    n_train_views: Count  # training renderings a person
    n_conversations: Count = 2  # training conversations a person and modality while unlearning
    # extra questions a person and modality in wordings never trained on
    n_heldout_wordings: CountOrNone = 1

    @model_validator(mode="after")
    def _counts(self) -> Self:
        if self.n_finetuned_forget % self.n_requests:
            raise ValueError(
                f"n_finetuned_forget = {self.n_finetuned_forget} must be a multiple of "
                f"n_requests = {self.n_requests}"
            )
        if self.n_pretrained_forget + self.n_pretrained_retain > self.n_candidates:
            raise ValueError(
                "n_pretrained_forget + n_pretrained_retain is more than "
                f"n_candidates = {self.n_candidates}"
            )
        taught = (
            "n_finetuned_forget",
            "n_finetuned_retain",
            "n_finetuned_retain_train",
            "n_holdout",
        )
        said = {name: getattr(self, name) for name in taught}
        if self.people.source in KNOWN and any(said.values()):
            raise ValueError(
                f"people.source = {self.people.source} has nobody to be taught: set "
                f"{', '.join(name for name, n in said.items() if n)} to 0"
            )
        if self.people.source not in KNOWN and 0 in (
            self.n_finetuned_forget,
            self.n_finetuned_retain,
        ):
            raise ValueError(
                f"n_finetuned_forget = {self.n_finetuned_forget} and n_finetuned_retain = "
                f"{self.n_finetuned_retain} must be 1 or more with people.source = "
                f"{self.people.source}"
            )
        if self.people.source in KNOWN and not self.n_pretrained_forget:
            raise ValueError(
                f"n_pretrained_forget = 0 with people.source = {self.people.source}: there would be "
                "nobody to forget; give 1 or more"
            )
        if self.people.source in UNKNOWN and (self.n_candidates or self.n_pretrained_forget):
            raise ValueError(
                f"people.source = {self.people.source} has nobody whom the base model knows: set "
                "n_candidates, n_pretrained_forget and n_pretrained_retain to 0"
            )
        if self.general.source in DRAWN and not self.n_general:
            raise ValueError(
                f"n_general = 0 with general.source = {self.general.source}, which has as many "
                "questions as are wanted: give 1 or more"
            )
        if self.general.source in self.benchmarks:
            raise ValueError(
                f"benchmarks.{self.general.source} is asked as general questions already "
                f"(general.source = {self.general.source}): remove one of the two"
            )
        return self

    def beside(self) -> dict[Benchmark, Self]:
        """By name, the settings of each benchmark as if it were the general questions, for its
        source's module; in the order of their names.
        """
        found = {}
        for name, asked in sorted(self.benchmarks.items()):
            general = _Beside(source=name, path=asked.path, revision=asked.revision)
            found[name] = self.with_values(general=general, n_general=asked.n or 0, benchmarks={})
        return found


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class FinetuneSettings(Settings):
    """LoRA fine-tuning on the fictitious people (scenario finetuned)."""

    rank: Count = 16
    alpha: Count = 32
    learning_rate: Positive = 4.0e-3
    epochs: Count
    batch_size: Count = 16  # conversations
    warmup_steps: CountOrNone = 20
    max_grad_norm: Positive = 1.0
    general_replay: ShareBelowOne = 0.25  # share of each batch that is general conversations
    # Conversations read at once, as long as the longest of a step: of short ones more, if they need
    # no more memory. The gradient is that of the whole batch
    micro_batch: Count = 8
    optimizer: Optimizer = "adamw"
    # Learning rate of LoRA's B matrices over that of its A matrices: 1 is LoRA, above it LoRA+
    loraplus_ratio: Positive = 1.0


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class UnlearnSettings(Settings):
    """LoRA unlearning, single-shot and sequential."""

    rank: Count = 8
    alpha: Count = 16
    learning_rate: Positive = 3.0e-3
    epochs_finetuned: Count  # per person; the same number in one shot and in five requests
    epochs_pretrained: Count
    batch_size: Count  # conversations
    warmup_steps: CountOrNone = 0
    max_grad_norm: Positive = 1.0
    # Conversations read at once, as long as the longest of a step: of short ones more, if they need
    # no more memory. The gradient is that of the whole batch
    micro_batch: Count = 8
    optimizer: Optimizer = "adamw"
    depth: ShareAboveNone = 0.25  # of the layers: up to where rmu bends the hidden states
    reference: Reference = "round_start"
    supervised_tokens: SupervisedTokens = "answer"
    retain_source: RetainSource = "retain_train"
    forget_facts: CountOrNone = 0  # of each person, the others are to stay; 0: whole people
    # Steps between cheap measurements, in a round those of its stop rule alone; 0: none
    path_every: CountOrNone = 2
    # share of the starting forget accuracy below which every step is measured
    path_dense_below: Share = 0.9
    matched_at: Share = 0.35  # forget accuracy that defines the `matched` state
    matched_by: MatchedBy = "both"  # by which that accuracy is to be so low
    # Stop rules, judged at each cheap measurement; 0: off
    stop_forget: Share = 0.0  # stop once the forget accuracy is at or below this
    stop_utility: Share = (
        0.0  # stop, and go back, once retain and general keep less than this share
    )
    # Learning rates between which a search draws; 0: its own factors of learning_rate
    search_from: NotNegative = 0.0
    search_to: NotNegative = 0.0
    # {seed} stands for the seed: a model pre-trained without the forget people, for method oracle
    oracle_model: Text = ""

    @model_validator(mode="after")
    def _searched(self) -> Self:
        if not self.search_from <= self.search_to or bool(self.search_from) != bool(self.search_to):
            raise ValueError(
                f"search_from = {self.search_from:g} and search_to = {self.search_to:g}: give a lower "
                "and a higher learning rate, or 0 to both"
            )
        return self

    def n_steps(self, n_conversations: int, epochs: int) -> int:
        """Steps of a whole run; an epoch's last short batch is one, too."""
        return math.ceil(n_conversations / self.batch_size) * epochs


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class EvaluateSettings(Settings):
    """Answering questions and measuring them."""

    batch_size: Count = 64  # questions
    max_new_tokens: Count
    n_path_questions: Count  # questions of each set that a cheap measurement asks
    extraction_rules: ExtractionRules = "vlmevalkit_2024"


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class ProbeSettings(Settings):
    """What a finished model is tried with (06_probe). It relearns by the recipe of `finetune`."""

    n_questions: Count = 200  # of each set, in every condition
    relearn_people: Count = 5  # forget people, and as many others, who are taught again
    relearn_batch_size: Count = 8  # conversations
    relearn_steps: Count = 32


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Profile(Settings):
    """A whole profile; `name` is the file's stem and the folder under outputs/."""

    name: Name
    description: Text
    model: ModelSettings
    data: DataSettings
    finetune: FinetuneSettings
    unlearn: UnlearnSettings
    evaluate: EvaluateSettings
    probe: ProbeSettings = ProbeSettings()
    # What a search found: scenario -> method -> learning_rate, epochs and the method's
    # hyperparameters; sequential -> method/strategy -> the same, and the strategy's. A method that is not there has
    # the rate and epochs of `unlearn` and the coefficients of its row.
    tuned: Tuned = field(default_factory=dict)
    # Where it was read from: no part of what it says
    files: tuple[Path, ...] = field(
        default=(), compare=False
    )  # its own first, then those that it extends
    tuned_file: Path | None = field(default=None, compare=False)  # that of `tuned`

    @model_validator(mode="after")
    def _training(self) -> Self:
        n, replay = self.data.n_general_train, self.finetune.general_replay
        source = self.data.general.source
        if source in ONLY_SCORED and (n or replay):
            raise ValueError(
                f"data.n_general_train = {n} and finetune.general_replay = {replay} must both be 0 "
                f"with data.general.source = {source}, which is only scored, never trained on"
            )
        if replay and not n:
            raise ValueError(
                f"finetune.general_replay = {replay} has nothing to replay with "
                "data.n_general_train = 0: set it to 0, or give conversations"
            )
        check_tuned(self.tuned)
        return self

    def unlearn_for(
        self, scenario: str, method: str, *, strategy: str = ""
    ) -> tuple[UnlearnSettings, dict[str, float]]:
        """The unlearning settings of one method (sequential: with its strategy), and the
        hyperparameters that its rows are tuned by.
        """
        values = tuned_for(self.tuned, scenario, method=method, strategy=strategy)
        changes: dict[str, float] = {RATE: values.pop(RATE, self.unlearn.learning_rate)}
        if EPOCHS in values:
            epochs = int(values.pop(EPOCHS))
            changes |= {f"epochs_{name}": epochs for name in SCENARIOS}
        return self.unlearn.with_values(**changes), values

    def as_dict(self) -> dict:
        """The resolved settings as nested plain dicts, for manifests."""
        values = dataclasses.asdict(self)
        return {k: v for k, v in values.items() if k not in ("files", "tuned_file")}
