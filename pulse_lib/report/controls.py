"""The explorer's controls: each a box of ipywidgets over one picture, in batch that picture alone.

What is drawn is explorer.py's; a control never computes anything that a later cell needs. What
ipywidgets 7.7 and 8 share is used, no more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from pulse_lib.errors import PulseError
from pulse_lib.profile import SCENARIOS
from pulse_lib.progress import is_batch
from pulse_lib.report import explorer, words
from pulse_lib.report.collect import Study, pick
from pulse_lib.report.explorer import Explorer, runs_of
from pulse_lib.report.figures import levels as levels_drawn
from pulse_lib.report.figures import stories
from pulse_lib.report.figures.style import Figure, empty_figure
from pulse_lib.report.tables import levels
from pulse_lib.report.widgets import put, states_of

WIDE = "420px"


def question_browser(look: Explorer):
    """One question across methods and rounds: set, person, question, previous and next; in batch
    the first question about the first forget person."""
    which = {"forget": "forget", "retain": "retain", "general": "general"}
    first = next(iter(look.people_of("forget").values()))
    if is_batch():
        return explorer.STILLS["question"](look)
    sets = _dropdown(which, "set")
    names = _dropdown(look.people_of("forget"), "person", wide=True)
    asked = _dropdown(look.questions_of("forget", first), "question", wide=True)

    def new_set(*_) -> None:
        _refill(names, look.people_of(sets.value) if sets.value != "general" else {"-": ""})
        new_person()

    def new_person(*_) -> None:
        _refill(asked, look.questions_of(sets.value, names.value))

    sets.observe(new_set, names="value")
    names.observe(new_person, names="value")
    return _panel(
        [sets, names, asked, *_steps(asked)], lambda: look.question(asked.value), watched=[asked]
    )


def person_browser(look: Explorer):
    """The story of one person, by name, previous and next; in batch the last forget person, whose
    turn came last."""
    if is_batch():
        return explorer.STILLS["person"](look)
    sets = _dropdown({"forget": "forget", "retain": "retain"}, "set")
    names = _dropdown(look.people_of("forget"), "person", wide=True)
    sets.observe(lambda *_: _refill(names, look.people_of(sets.value)), names="value")
    return _panel([sets, names, *_steps(names)], lambda: look.person(names.value), watched=[names])


def face_browser(look: Explorer):
    """Who of a set lost most: run, state, set; in batch retain people of the last sequential run,
    or of the first run there is."""
    names = runs_of(look)
    if is_batch():
        return explorer.STILLS["faces"](look)
    runs = _dropdown({name: name for name in names}, "run", wide=True)
    states = _dropdown({s: s for s in states_of(look.study, names[0])}, "state")
    which = _dropdown({"retain": "retain", "forget": "forget"}, "set")

    def new_run(*_) -> None:
        _refill(states, {s: s for s in states_of(look.study, runs.value)})

    runs.observe(new_run, names="value")
    return _panel(
        [runs, states, which, *_steps(states)],
        lambda: look.fallen(runs.value, states.value, which=which.value),
        watched=[states, which],
    )


def trade_off_browser(study: Study):
    """Every model state as a point, filtered by scenario, method, seed and trained part; in batch
    all of the first scenario."""
    table = explorer.states(study)
    there = [name for name in SCENARIOS if name in set(table["scenario"])]
    if not there:
        return empty_figure("No unlearning run is complete yet.")
    if is_batch():
        return stories.state_scatter(pick(table, scenario=there[0]))
    any_one = {"any": ""}
    done = table[table["what"] != "before"]
    boxes = {
        "scenario": _dropdown({words.SCENARIOS[s]: s for s in there}, "scenario"),
        "method": _dropdown(
            any_one | {words.label(m): m for m in words.method_order(done["method"])}, "method"
        ),
        "seed": _dropdown(any_one | {str(s): s for s in sorted(set(done["seed"]))}, "seed"),
        "trained_part": _dropdown(
            any_one | {part: part for part in sorted(set(done["trained_part"]))}, "trained"
        ),
    }
    against = _dropdown({"general": "general", "retain": "retain"}, "kept")

    def draw() -> Figure:
        wanted = {name: box.value for name, box in boxes.items() if box.value != ""}
        start = {k: v for k, v in wanted.items() if k in ("scenario", "seed")}
        shown = pd.concat([pick(table[table["what"] == "before"], **start), pick(done, **wanted)])
        return stories.state_scatter(shown, against.value)

    return _panel([*boxes.values(), against], draw, watched=[*boxes.values(), against])


def level_browser(study: Study):
    """What methods keep at a level of forgetting of one's choice, by each rule of what counts as
    forgotten: read off the stored trajectories, so that no run is needed. In batch the study's own
    level."""
    if is_batch() or study.paths.empty:
        return levels_drawn.kept_at_level(levels.at_level(study, [study.matched_at]))
    import ipywidgets as widgets

    level = widgets.FloatSlider(
        value=study.matched_at, min=0.05, max=0.8, step=0.05, description="level"
    )
    level.continuous_update = False

    def draw() -> Figure:
        return levels_drawn.kept_at_level(levels.at_level(study, [round(level.value, 2)]))

    return _panel([level], draw, watched=[level])


def ask_panel(ask: Callable[..., str], adapters: Sequence[str], *, look: Explorer):
    """Ask a model: a question of one's own, a picture of the study's people or an own one, and which
    adapters are in force. In batch a table of one question's answers, each adapter added in turn.

    ask(text, image, adapters=names) -> what the model says; image: a PIL picture or None.
    """
    first = look.people_of("forget")
    person = next(iter(first.values()))
    if is_batch():
        text = "What is the occupation of this person?"
        picture = look.images[look.faces[person]] if person in look.faces else None
        lines = [
            {
                "adapters in force": ", ".join(adapters[:n]) or "none: the base model",
                "asked": text,
                "about": look.people[person].name,
                "answer": ask(text, picture, adapters=adapters[:n]),
            }
            for n in range(len(adapters) + 1)
        ]
        return pd.DataFrame(lines)
    import ipywidgets as widgets

    everybody = first | look.people_of("retain")
    who = _dropdown({"no picture": ""} | everybody, "picture of", wide=True)
    who.value = person
    own = widgets.FileUpload(accept="image/*", multiple=False, description="own picture")
    text = widgets.Text(
        value="What is the occupation of this person?",
        description="question",
        layout=widgets.Layout(width="620px"),
    )
    on = [widgets.Checkbox(value=True, description=name, indent=False) for name in adapters]
    button = widgets.Button(description="Ask", button_style="primary")
    picture, answer = (
        widgets.Image(format="png", layout=widgets.Layout(width="160px")),
        widgets.HTML(),
    )
    log: list[str] = []

    def image():
        data = uploaded(own.value)
        if data is not None:
            return opened(data)
        return look.images[look.faces[who.value]] if who.value in look.faces else None

    def show(*_) -> None:
        shown = image()
        picture.value = thumbnail(shown) if shown is not None else b""
        picture.layout.display = "" if shown is not None else "none"

    def pressed(*_) -> None:
        names = [box.description for box in on if box.value]
        said = ask(text.value, image(), adapters=names)
        log.insert(0, line_of(text.value, said, adapters=names))
        answer.value = "".join(log[:8])

    who.observe(show, names="value")
    own.observe(show, names="value")
    button.on_click(pressed)
    show()
    return widgets.VBox(
        [
            widgets.HBox([who, own]),
            text,
            widgets.HBox([widgets.Label("adapters in force:"), *on]),
            button,
            widgets.HBox([picture, answer]),
        ]
    )


def line_of(asked: str, said: str, *, adapters: Sequence[str]) -> str:
    """One question and answer as HTML; everything that was typed or said is escaped."""
    from html import escape

    where = ", ".join(adapters) or "base model"
    return (
        f"<p><b>{escape(said) or '(nothing)'}</b><br>{escape(asked)} <i>({escape(where)})</i></p>"
    )


def uploaded(value: Any) -> bytes | None:
    """The file of a FileUpload, whose value is a dict by name in ipywidgets 7 and a tuple in 8; None
    if there is none."""
    files = list(value.values()) if isinstance(value, dict) else list(value)
    return bytes(files[-1]["content"]) if files else None


def opened(data: bytes):
    """An uploaded picture in RGB. Raises PulseError if it is none."""
    import io

    from PIL import Image

    try:
        return Image.open(io.BytesIO(data)).convert("RGB")
    except OSError as error:
        raise PulseError(f"the file that was uploaded is no picture ({error})") from None


def thumbnail(image) -> bytes:
    """A picture as PNG, at most 320 pixels wide."""
    import io

    small, file = image.copy(), io.BytesIO()
    small.thumbnail((320, 320))
    small.save(file, "PNG")
    return file.getvalue()


# --- small parts ----------------------------------------------------------------------------------


def _dropdown(options: Mapping[str, Any], name: str, *, wide: bool = False):
    import ipywidgets as widgets

    layout = widgets.Layout(width=WIDE) if wide else widgets.Layout()
    return widgets.Dropdown(options=list(options.items()), description=name, layout=layout)


def _refill(box, options: Mapping[str, Any]) -> None:
    """Other choices; the first of them is chosen, which tells those who watch."""
    box.options = list(options.items())


def _steps(box) -> list:
    """Buttons to the previous and the next choice of a dropdown, round and round."""
    import ipywidgets as widgets

    buttons = []
    for name, by in (("previous", -1), ("next", 1)):
        button = widgets.Button(description=name, layout=widgets.Layout(width="90px"))

        def step(_, by=by) -> None:
            box.index = (box.index + by) % len(box.options)

        button.on_click(step)
        buttons.append(button)
    return buttons


def _panel(controls: list, draw: Callable[[], Figure], *, watched: list):
    """Controls above a picture, which is drawn anew when one of the watched changes, and its title
    as text for who cannot see it."""
    import ipywidgets as widgets

    picture = widgets.Image(format="png", layout=widgets.Layout(max_width="100%"))
    said = widgets.HTML()

    def show(*_) -> None:
        if all(getattr(box, "index", 0) is not None for box in watched):
            figure = draw()
            put(picture, figure)
            said.value = figure.get_suptitle()

    for box in watched:
        box.observe(show, names="value")
    show()
    row = widgets.HBox(controls, layout=widgets.Layout(flex_flow="row wrap"))
    return widgets.VBox([row, picture, said])
