"""What a profile will cost, before anything is downloaded: memory of the card, disk, download and
time, item by item, from the model's shapes and the profile's counts.

Estimates: memory was found right to about 1 GiB where it could be checked; time depends on a share of
the card's peak, which is what `make gpu-check` measured, or assumed where it has not; which, is printed.
"""

from __future__ import annotations

import math
import os
from dataclasses import KW_ONLY, dataclass
from typing import cast

from pulse_lib.commands import gpus, pace
from pulse_lib.commands.stages import Stage as Stage
from pulse_lib.commands.stages import counts as counts
from pulse_lib.commands.stages import stages as stages
from pulse_lib.data.source import general_of, source_of
from pulse_lib.errors import PulseError
from pulse_lib.files import local_path, read_json
from pulse_lib.model import memory
from pulse_lib.model.memory import Shapes
from pulse_lib.profile import Profile

SPARE_GIB = 0.5  # fragments of the allocator
# Of a question with its options (and these, read behind it), or of one conversation, besides the picture's
TEXT_TOKENS = 100
SHOWN = 0.5  # of the conversations, those beside a picture: what is taught is so too by name
CPU_TFLOPS = 0.05
CPU_WEIGHTS = 5e8  # a language model of more is nothing for a processor
FREE_DOWNLOAD_MB_S = 40  # assumed


def stage_seconds(
    stage: Stage,
    config: Shapes,
    *,
    tokens: int,
    checkpointing: bool,
    peak: float,
    shares: pace.Shares = pace.ASSUMED,
) -> float:
    """Seconds at a share of `peak` (TFLOP/s; 0: a CPU); `tokens` of a conversation beside a picture."""
    n = stage.steps * stage.sequences
    train = sum(
        gpus.step_flops(config, length, sequences=share * n, checkpointing=checkpointing)
        for length, share in ((tokens, SHOWN), (TEXT_TOKENS, 1 - SHOWN))
    )
    ask = gpus.asking_flops(
        config,
        picture=tokens - TEXT_TOKENS,
        pictures=stage.asked.pictures,
        text=TEXT_TOKENS,
        questions=stage.asked.questions,
    )
    if not peak:
        return (train + ask) / (CPU_TFLOPS * 1e12)
    return train / (peak * shares.train * 1e12) + ask / (peak * shares.ask * 1e12)


def together(hours: dict[str, float], n_cards: int) -> float:
    """Hours of the notebooks with one run a card: 03 and 04 side by side once 02 is done, the longest
    first, as Snakemake has them.
    """
    runs = [h for name, h in hours.items() if name[:2] in ("03", "04")]
    busy = [0.0] * n_cards
    for one in sorted(runs, reverse=True):
        busy[busy.index(min(busy))] += one
    return sum(hours.values()) - sum(runs) + max(busy)


# --- the model's shapes, and files --------------------------------------------------------------


def model_config(profile: Profile) -> Shapes:
    """The shapes of a profile's model, without a download: of a folder, of the embedded model, or of
    a published checkpoint by its name. Raises PulseError if a hub id names none that is known.
    """
    from transformers import AutoConfig, LlavaConfig

    from pulse_lib.assets import EMBEDDED

    path = profile.model.path
    folder = EMBEDDED if path == "embedded" else local_path(path)
    if folder.is_dir():
        if read_json(folder / "config.json").get("model_type") == "llava":
            return cast(Shapes, LlavaConfig.from_pretrained(folder))
        config = AutoConfig.from_pretrained(folder)
    else:
        for size in ("7b", "13b"):
            if "llava-1.5" in path.lower() and f"-{size}" in path.lower():
                return cast(Shapes, memory.llava_1_5_config(size))
        from pulse_lib.model.families.checkpoints import config_of

        config = config_of(path)
    from pulse_lib.model.families import shapes_of  # torch: LLaVA-1.5 needs none of it

    return shapes_of(config)


def checkpoint_gb(profile: Profile, config: Shapes) -> float:
    """Size of the checkpoint's files in GB (10^9 bytes): of the folder, or of 16-bit weights."""
    from pulse_lib.assets import EMBEDDED

    path = profile.model.path
    folder = EMBEDDED if path == "embedded" else local_path(path)
    if folder.is_dir():
        return sum(p.stat().st_size for p in folder.iterdir() if p.is_file()) / 1e9
    return sum(memory.weight_items(config, "16bit").values()) * 2**30 / 1e9


@dataclass(frozen=True)
class Place:
    """Where a profile is to run: a card, or the machine's memory."""

    name: str
    gib: float  # that a process can use
    _: KW_ONLY
    card: gpus.Card | None = None  # None: no card that is known by name
    n_cards: int = 1  # 0: none was named, and none is here


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What `plan` prints."""

    memory: dict[str, dict[str, float]]  # stage -> item -> GiB
    disk: dict[str, float]  # item -> GB
    download_gb: float
    hours: dict[str, float]  # stage -> hours; none where the place has no known pace
    hours_together: float  # of all, the runs beside one another on the place's cards
    place: Place
    assumptions: tuple[str, ...]
    for_a_card: bool  # a model that only a card can work with

    @property
    def peak_gib(self) -> float:
        """The stage that needs most, with what should be spare."""
        return max(sum(items.values()) for items in self.memory.values()) + SPARE_GIB

    @property
    def asks(self) -> bool:
        """Whether a card has to be named before anything can be said of fitting and of time."""
        return self.for_a_card and not self.place.n_cards

    @property
    def fits(self) -> bool:
        """Whether the peak fits the place."""
        return not self.asks and self.peak_gib <= self.place.gib


def cost(profile: Profile, place: Place) -> Cost:
    """The whole estimate of a profile there."""
    config = model_config(profile)
    f, u, e, load = profile.finetune, profile.unlearn, profile.evaluate, profile.model.load
    tokens = memory.picture_tokens(config) + TEXT_TOKENS
    checkpointing = profile.model.gradient_checkpointing
    by_stage = {
        "fine-tuning": memory.training_memory(
            config,
            load,
            micro_batch=min(f.micro_batch, f.batch_size),
            rank=f.rank,
            optimizer=f.optimizer,
            tokens=tokens,
            checkpointing=checkpointing,
        ),
        "unlearning": memory.training_memory(
            config,
            load,
            micro_batch=min(u.micro_batch, u.batch_size),
            rank=u.rank,
            optimizer=u.optimizer,
            frozen_rank=f.rank,
            tokens=tokens,
            checkpointing=checkpointing,
        ),
        "answering": memory.asking_memory(
            config, load, tokens=tokens, batch_size=e.batch_size, frozen_ranks=(f.rank, u.rank)
        ),
    }
    dtype: gpus.Dtype = "bfloat16" if place.card and place.card.bfloat16 else "float16"
    peak = gpus.peak_tflops(place.card, dtype)
    weights = checkpoint_gb(profile, config)
    adapters = memory.lora_parameters(config, "projector+llm", rank=1) * 4 / 1e9
    n_states = 2 + 2 + profile.data.n_requests
    local = profile.model.path == "embedded" or local_path(profile.model.path).is_dir()
    d = profile.data
    asked = [general_of(there).general_size(there) for there in (d, *d.beside().values())]
    data = source_of(d).size(d).download_gb + sum(size.download_gb for size in asked)
    download = (0 if local else weights) + data
    shares = pace.shares(place.card)
    for_a_card = gpus.linear_parameters(config) > CPU_WEIGHTS
    hours = {
        stage.name: stage_seconds(
            stage, config, tokens=tokens, checkpointing=checkpointing, peak=peak, shares=shares
        )
        / 3600
        for stage in stages(profile)
        if peak or not for_a_card
    }
    in_all = together(hours, max(1, place.n_cards))
    if hours:
        hours["download"] = download * 1000 / FREE_DOWNLOAD_MB_S / 3600
    assumptions = [
        f"{tokens} tokens of a conversation beside a picture, {TEXT_TOKENS} of one in text, half of each; "
        f"{memory.ANSWER_TOKENS} of them supervised"
        + (", gradient checkpointing" if checkpointing else "")
    ]
    if hours:
        speed = f"{peak:g} TFLOP/s ({dtype})" if peak else f"{CPU_TFLOPS:g} TFLOP/s (a processor)"
        assumptions += [
            f"{speed}{f', {shares.words}' if peak else ''}; one seed, one method with a retain "
            "loss; measurements along the way at every step once half of the steps are done; a picture is "
            "read once for the questions about it",
            f"download at {FREE_DOWNLOAD_MB_S} MB/s",
        ]
    elif place.n_cards:
        assumptions.append("no time: this card's pace is not known; --gpu names one that is")
    return Cost(
        memory=by_stage,
        disk={
            "model": weights,
            "data": data,
            "adapters of a run in each scenario": adapters * (f.rank + n_states * u.rank),
        },
        download_gb=download,
        hours=hours,
        hours_together=in_all + hours.get("download", 0.0),
        place=place,
        assumptions=tuple(assumptions),
        for_a_card=for_a_card,
    )


def find_card(gpu: str, gpu_gib: float) -> Place:
    """The card as named, else the one found here, else the machine's memory."""
    if gpu and gpu_gib:
        raise PulseError("give --gpu or --gpu-gib, not both")
    if gpu:
        card, n = gpus.named(gpu)
        several = f" x{n}" if n > 1 else ""
        return Place(f"{card.id}{several}", card.memory_gib, card=card, n_cards=n)
    if gpu_gib:
        return Place(f"a card of {gpu_gib:g} GiB", gpu_gib)
    import torch

    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        return Place(
            name,
            torch.cuda.mem_get_info()[1] / 2**30,
            card=gpus.recognised(name),
            n_cards=torch.cuda.device_count(),
        )
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return Place("this machine's memory, no graphics card", total, n_cards=0)


def table_rows(found: Cost) -> list[tuple[str, str, str]]:
    """(what, item, amount) rows, in the order they are printed."""
    rows: list[tuple[str, str, str]] = []
    for stage, items in found.memory.items():
        rows += [(f"memory, {stage}", item, f"{gib:.2f} GiB") for item, gib in items.items()]
        rows.append((f"memory, {stage}", "sum", f"{sum(items.values()):.2f} GiB"))
    rows += [("disk", item, f"{gb:.2f} GB") for item, gb in found.disk.items()]
    rows.append(("download", "model and data", f"{found.download_gb:.2f} GB"))
    rows += [("time", stage, _time(hours)) for stage, hours in found.hours.items()]
    if found.hours:
        rows.append(("time", "sum", _time(sum(found.hours.values()))))
    if found.hours and found.place.n_cards > 1:
        rows.append(("time", f"on {found.place.n_cards} cards", _time(found.hours_together)))
    return rows


def verdict(found: Cost) -> str:
    """One line: does it fit; or what is to be said first."""
    if found.asks:
        return (
            f"{found.peak_gib:.1f} GiB of a graphics card needed, and none is here: name one with "
            f"--gpu and this says whether it fits and how long it takes: {', '.join(gpus.CARDS)}, or "
            '"t4 x2"; any other by its memory: --gpu-gib 24'
        )
    return (
        f"{'fits' if found.fits else 'DOES NOT FIT'}: {found.peak_gib:.1f} GiB needed ("
        f"{SPARE_GIB:g} of them spare), {found.place.gib:.1f} GiB there ({found.place.name})"
    )


def _time(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{math.ceil(hours * 60)} min"
