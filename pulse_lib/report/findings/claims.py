"""The paper's findings as data: what it claims and reports, and the rule by which rows are held
against it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from pulse_lib.report import paper
from pulse_lib.report.findings.rules import (
    Facts,
    Number,
    below_chance,
    erosion,
    forgetting,
    general_retained,
    projector_gap,
    projector_general,
    scenario_cost,
    sequential_forgetting,
    splitting,
)
from pulse_lib.report.words import Metric, Selection

Whose = Literal["paper", "kit"]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim of the paper as the paper tests it, or the kit's variant of one (at equal forgetting,
    or another reading of its numbers). `numbers` is a function of `rules`; {level} in `rule` is the
    matched level."""

    id: str
    claim: str
    reported: str  # the paper's numbers
    where: str  # in the paper
    rule: str
    numbers: Callable[[Facts], Iterator[Number]]
    whose: Whose = "paper"


AT: dict[Selection, str] = {"final": "at the last step", "matched": "at matched forgetting"}
EQUAL: dict[Selection, str] = {"final": "equal epochs", "matched": "equal forgetting"}
COMPARED: dict[Selection, str] = {
    "final": "the last round against the last step",
    "matched": "the first round at or below {level:g} against the matched step",
}
WHOSE: dict[Selection, Whose] = {"final": "paper", "matched": "kit"}
LEFT_OF: dict[Metric, str] = {"retain": "the retain set", "general": "general questions"}
LOST, LEFT = paper.GENERAL_LOST_PRETRAINED, 100 - 2 * paper.GENERAL_LOST_FINETUNED


def _both_selections(selection: Selection) -> tuple[Claim, ...]:
    """Claims that are tested at the last step, as in the paper, and at matched forgetting."""
    at = AT[selection]
    unmatched = " (end points, not matched)" if selection == "matched" else ""
    return (
        Claim(
            id=f"pretrained-harder-{selection}",
            claim="Forgetting pre-trained knowledge costs more general ability than forgetting "
            f"fine-tuned knowledge ({at}).",
            reported=f"MMBench loses over 90 % against about 10 %, all three methods{unmatched}",
            where="Figure 4",
            rule="General kept in the pre-trained scenario minus general kept in the fine-tuned "
            f"one is below 0, for each method, {at}.",
            numbers=lambda facts: scenario_cost(facts, selection),
            whose=WHOSE[selection],
        ),
        Claim(
            id=f"projector-short-cut-{selection}",
            claim="With the projector trainable, GA breaks the link from image to knowledge: "
            f"text-only keeps more ({at}).",
            reported="text-only minus multimodal: 25.6 points with projector, 8.4 with LLM only",
            where="GA table",
            rule="Text-only minus multimodal forget accuracy is above 0 with the projector trained "
            f"and larger than with the LLM only (fine-tuned scenario, {at}).",
            numbers=lambda facts: projector_gap(facts, selection),
            whose=WHOSE[selection],
        ),
        Claim(
            id=f"projector-spares-general-{selection}",
            claim=f"Training the projector as well spares general ability ({at}).",
            reported="MMBench 71.1 with the projector, 48.8 with the LLM only",
            where="GA table",
            rule="General accuracy with projector+LLM minus LLM only is above 0 "
            f"(fine-tuned scenario, {at}).",
            numbers=lambda facts: projector_general(facts, selection),
            whose=WHOSE[selection],
        ),
    )


def _splitting(metric: Metric, selection: Selection) -> Claim:
    return Claim(
        id=f"splitting-hurts-{metric}-{selection}",
        claim=f"Five requests of ten leave less accuracy on {LEFT_OF[metric]} than one of fifty "
        f"({EQUAL[selection]}).",
        reported="far worse, read from the figures",
        where="Figures 4 and 5",
        rule=f"Percent of {metric} accuracy kept after several requests minus after one is below "
        f"0, for each method; {COMPARED[selection]}.",
        numbers=lambda facts: splitting(facts, metric, selection=selection),
        whose=WHOSE[selection],
    )


FINDINGS = (
    Claim(
        id="forgetting-works",
        claim="The methods do forget what they are asked to, in both scenarios.",
        reported="GA: 78.0 to 9.6 (multimodal), 76.8 to 35.2 (text-only)",
        where="Figure 4 and the GA table",
        rule="Forget accuracy (mean of both modalities) at the last step is below {level:g}, for "
        "each method and scenario.",
        numbers=forgetting,
    ),
    *(
        claim
        for pair in zip(_both_selections("final"), _both_selections("matched"), strict=True)
        for claim in pair
    ),
    Claim(
        id="pretrained-general-lost",
        claim="After forgetting pre-trained knowledge hardly any general ability is left.",
        reported=f"over {LOST} % of MMBench lost",
        where="Figure 4",
        rule="Percent of general accuracy kept at the last step, pre-trained scenario, is below "
        f"{100 - LOST}, for each method.",
        numbers=lambda facts: general_retained(facts, "pretrained", bound=100 - LOST, side="below"),
    ),
    Claim(
        id="finetuned-general-kept",
        claim="After forgetting fine-tuned knowledge most general ability is left.",
        reported=f"about {paper.GENERAL_LOST_FINETUNED} % of MMBench lost",
        where="Figure 4",
        rule="Percent of general accuracy kept at the last step, fine-tuned scenario, is above "
        f"{LEFT} (at most twice the paper's loss), for each method.",
        numbers=lambda facts: general_retained(facts, "finetuned", bound=LEFT, side="above"),
    ),
    Claim(
        id="below-chance",
        claim="GA's forget accuracy lies below chance: the score mixes forgetting with breaking.",
        reported="multimodal 9.6 % where guessing gives 25 %",
        where="GA table; the reading is this kit's",
        rule="Multimodal forget accuracy of GA at the last step is below chance and below the "
        "accuracy of the likeliest option.",
        numbers=below_chance,
        whose="kit",
    ),
    Claim(
        id="sequential-forgets",
        claim="Over five requests forget accuracy falls as it should.",
        reported="read from the figure",
        where="Figure 5",
        rule="Forget accuracy over everybody requested, after the last request, is below "
        "{level:g}, for each method.",
        numbers=sequential_forgetting,
    ),
    *(
        Claim(
            id=f"sequential-{metric}-lost",
            claim=f"After five requests accuracy on {name} is near zero.",
            reported="near zero, read from the figure",
            where="Figure 5",
            rule=f"Percent of {metric} accuracy kept after the last request is below 10, for each "
            "method.",
            numbers=lambda facts, metric=metric: erosion(facts, metric, bound=10),
        )
        for metric, name in LEFT_OF.items()
    ),
    *(_splitting(metric, selection) for metric in LEFT_OF for selection in AT),
)
