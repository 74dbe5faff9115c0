"""The model card's text, from the numbers of card.json alone."""

from __future__ import annotations

# What the embedded model should reach: (row of the card, column, direction, value).
TARGETS = (
    ("best 45", "multimodal", ">=", 0.97),
    ("best 45", "text", ">=", 0.97),
    ("most seen third", "multimodal", ">=", 0.95),
    ("most seen third", "text", ">=", 0.95),
    ("least seen third", "multimodal", "<=", 0.80),
    ("least seen third", "text", "<=", 0.80),
    ("held-out wordings, all", "multimodal", ">=", 0.60),
    ("held-out wordings, all", "text", ">=", 0.60),
    ("left out", "multimodal", "<=", 0.35),  # never met: at most what guessing gives, and luck
    ("left out", "text", "<=", 0.35),
)
GENERAL_TARGET, CATEGORY_TARGET = 0.85, 0.65


def targets(card: dict) -> list[tuple[str, float, str, bool]]:
    """Every target with its measured value: (name, value, wanted, reached). Rows that were not
    measured are left out."""
    people, rows = card["accuracy"]["people"], []
    for row, column, sign, wanted in TARGETS:
        if row in people:
            value = people[row][column]
            rows.append(
                (
                    f"{row}, {column}",
                    value,
                    f"{sign} {wanted:.2f}",
                    value >= wanted if sign == ">=" else value <= wanted,
                )
            )
    general = card["accuracy"]["general"]
    rows.append(("general", general, f">= {GENERAL_TARGET:.2f}", general >= GENERAL_TARGET))
    for category, value in sorted(card["accuracy"]["general_by_category"].items()):
        rows.append(
            (f"general: {category}", value, f">= {CATEGORY_TARGET:.2f}", value >= CATEGORY_TARGET)
        )
    return rows


def card_text(card: dict) -> str:
    """The model card in Markdown."""
    lines = [
        "# The embedded LLaVA",
        "",
        f"A {card['parameters'] / 1e6:.2f} M parameter `LlavaForConditionalGeneration` that was pre-trained on a drawn world: 153 celebrities with",
        "faces and five facts each, seen unequally often, and general visual questions. It exists to run the whole unlearning protocol on",
        "a laptop, and because its pre-training can be repeated without chosen people. It knows nothing about the real world.",
        "",
        f"Made by `{card['command']}` in {card['minutes']} minutes ({card['minutes_vision']} for the vision tower) with {card['threads']} threads on",
        f"{card['machine']}; python {card['python']}, "
        + ", ".join(f"{k} {v}" for k, v in card["versions"].items())
        + ".",
        *(
            [f"Without {len(card['left_out'])} people: {', '.join(card['left_out'])}."]
            if card["left_out"]
            else []
        ),
        "",
        "Accuracies: greedy generation, one question at a time, four options (chance 0.25; yes/no and comparisons 0.5), renderings and",
        "option orders never trained on. Options are answered by their text. The best 45 were chosen on other renderings.",
        "",
        "| people | multimodal | text |",
        "|---|---|---|",
        *(
            f"| {name} | {v['multimodal']:.3f} | {v['text']:.3f} |"
            for name, v in card["accuracy"]["people"].items()
        ),
        "",
        "| aim | value | wanted | |",
        "|---|---|---|---|",
        *(
            f"| {name} | {value:.3f} | {wanted} | {'reached' if ok else '**missed**'} |"
            for name, value, wanted, ok in targets(card)
        ),
        "",
        "What the thrown-away heads read from the vision tower: "
        + ", ".join(f"{k} {v:.2f}" for k, v in card["vision_heads"].items())
        + ".",
        "",
        "Licence: Apache-2.0, like the kit. All people, faces, names and facts are invented.",
    ]
    return "\n".join(lines) + "\n"
