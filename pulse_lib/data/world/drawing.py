"""Pictures of the embedded world: faces from a genome, scenes from a list of objects. Pure: the
same arguments draw the same pixels.

A *view* is one rendering: the same person a little nearer, further, turned or lit. Views differ by
the random generator alone.
"""

from __future__ import annotations

from random import Random

from PIL import Image, ImageDraw

SIZE = 160  # pixels of a finished picture, square
_WORK = 2 * SIZE  # drawn at twice the size, then reduced: smooth edges

COLOURS = {
    "red": (214, 48, 49),
    "blue": (52, 101, 214),
    "green": (46, 160, 67),
    "yellow": (245, 205, 50),
    "purple": (136, 62, 178),
    "orange": (240, 132, 38),
    "white": (244, 244, 240),
    "black": (34, 34, 38),
}
HAIR_COLOURS = {
    "black": (32, 26, 26),
    "brown": (112, 70, 40),
    "blond": (232, 200, 112),
    "ginger": (196, 84, 34),
    "gray": (158, 160, 166),
    "blue": (66, 104, 206),
}
SKINS = ((255, 224, 196), (238, 196, 156), (206, 156, 114), (152, 104, 72), (104, 68, 48))
EYES = {
    "brown": (96, 58, 30),
    "blue": (58, 122, 222),
    "green": (50, 150, 84),
    "gray": (128, 136, 146),
}
HATS = {"none": None, "red": "red", "blue": "blue", "green": "green", "yellow": "yellow"}
NECK = {"none": None, "red": "red", "yellow": "yellow", "blue": "blue"}
GENES = {
    "skin": tuple(range(len(SKINS))),
    "hair": tuple(HAIR_COLOURS),
    "style": ("short", "long", "spiky", "curly", "bald"),
    "eyes": tuple(EYES),
    "glasses": ("no", "yes"),
    "beard": ("no", "yes"),
    "shirt": tuple(COLOURS),
    "hat": tuple(HATS),
    "mouth": ("smile", "line", "open"),
    "tie": tuple(NECK),
    "face": ("round", "long", "wide"),
    "background": ("red", "blue", "green", "yellow", "purple", "orange", "white", "black"),
}
_FACE = {"round": (0.235, 0.265), "long": (0.205, 0.30), "wide": (0.27, 0.255)}
SHAPES = ("circle", "square", "triangle", "star")
SIZES = ("small", "large")
CELLS = ("upper left", "upper right", "lower left", "lower right")


def draw_face(genome: dict, rng: Random) -> Image.Image:
    """One view of a face, RGB, SIZE x SIZE. `genome` maps every key of GENES to one of its values;
    `rng` is the view."""
    light = rng.uniform(0.90, 1.08)

    def tone(rgb, by=1.0):
        return tuple(max(0, min(255, round(c * by * light + rng.uniform(-6, 6)))) for c in rgb)

    backdrop = tuple(round(0.55 * c + 0.45 * 205) for c in COLOURS[genome["background"]])
    image = Image.new("RGB", (_WORK, _WORK), tone(backdrop))
    d = ImageDraw.Draw(image)
    w = _WORK * rng.uniform(0.95, 1.06)  # nearer or further
    cx = _WORK * 0.5 + _WORK * rng.uniform(-0.045, 0.045)
    cy = _WORK * 0.47 + _WORK * rng.uniform(-0.04, 0.04)
    turn = rng.uniform(-0.03, 0.03) * w  # eyes, nose and mouth shift: a slight turn of the head
    fw, fh = (_FACE[genome["face"]][0] * w, _FACE[genome["face"]][1] * w)
    skin, shade = tone(SKINS[genome["skin"]]), tone(SKINS[genome["skin"]], 0.86)
    hair, hair_dark = tone(HAIR_COLOURS[genome["hair"]]), tone(HAIR_COLOURS[genome["hair"]], 0.78)
    shirt, shirt_dark = tone(COLOURS[genome["shirt"]]), tone(COLOURS[genome["shirt"]], 0.8)

    def ellipse(x, y, rx, ry, fill, **kw):
        d.ellipse([x - rx, y - ry, x + rx, y + ry], fill=fill, **kw)

    style = genome["style"]
    if style == "long":
        d.rounded_rectangle(
            [cx - fw * 1.28, cy - fh * 1.12, cx + fw * 1.28, cy + fh * 1.25],
            radius=fw,
            fill=hair_dark,
        )
    if style == "curly":
        for x, y in (
            (-1.05, -0.5),
            (-1.1, 0.0),
            (-0.95, 0.45),
            (1.05, -0.5),
            (1.1, 0.0),
            (0.95, 0.45),
        ):
            ellipse(cx + x * fw, cy + y * fh, fw * 0.42, fw * 0.42, hair_dark)
    # shoulders, neck, and what hangs on it
    d.rounded_rectangle(
        [cx - 0.43 * w, cy + fh * 1.16, cx + 0.43 * w, _WORK * 1.3], radius=0.15 * w, fill=shirt
    )
    d.rectangle([cx - fw * 0.38, cy + fh * 0.7, cx + fw * 0.38, cy + fh * 1.24], fill=shade)
    d.polygon(
        [(cx - fw * 0.5, cy + fh * 1.15), (cx + fw * 0.5, cy + fh * 1.15), (cx, cy + fh * 1.5)],
        fill=shirt_dark,
    )
    if tie_colour := NECK[genome["tie"]]:
        tie = tone(COLOURS[tie_colour])
        d.polygon(
            [(cx - 0.05 * w, cy + fh * 1.2), (cx + 0.05 * w, cy + fh * 1.2), (cx, cy + fh * 1.36)],
            fill=tie,
        )
        d.polygon(
            [(cx, cy + fh * 1.26), (cx - 0.065 * w, _WORK), (cx + 0.065 * w, _WORK)], fill=tie
        )
    # head
    for side in (-1, 1):
        ellipse(cx + side * fw * 0.98, cy + fh * 0.02, fw * 0.17, fh * 0.2, shade)
    ellipse(cx, cy, fw, fh, skin)
    if genome["beard"] == "yes":
        d.chord(
            [cx - fw * 0.97, cy - fh * 0.75, cx + fw * 0.97, cy + fh * 1.06], 12, 168, fill=hair
        )
        ellipse(cx + turn, cy + fh * 0.5, fw * 0.42, fh * 0.2, skin)
    # hair in front
    if style == "short":
        d.chord(
            [cx - fw * 1.08, cy - fh * 1.16, cx + fw * 1.08, cy + fh * 0.62], 188, 352, fill=hair
        )
    elif style == "long":
        d.chord([cx - fw * 1.2, cy - fh * 1.2, cx + fw * 1.2, cy + fh * 0.5], 186, 354, fill=hair)
    elif style == "spiky":
        top, base = cy - fh * 1.5, cy - fh * 0.42
        points = [(cx - fw * 1.05, base)]
        for i in range(5):
            points += [
                (cx + fw * (-0.85 + 0.42 * i), top + abs(i - 2) * fh * 0.12),
                (cx + fw * (-0.63 + 0.42 * i), base - fh * 0.3),
            ]
        d.polygon([*points, (cx + fw * 1.05, base)], fill=hair)
    elif style == "curly":
        for i in range(7):
            x = -0.9 + 0.3 * i
            ellipse(cx + x * fw, cy - fh * (0.98 - 0.35 * x * x), fw * 0.36, fw * 0.36, hair)
    # eyes
    ex, ey, r = fw * 0.44, cy - fh * 0.06, 0.058 * w
    for side in (-1, 1):
        x = cx + side * ex + turn
        ellipse(x, ey, r, r * 0.86, (252, 252, 250))
        ellipse(x, ey, r * 0.68, r * 0.68, tone(EYES[genome["eyes"]]))
        ellipse(x, ey, r * 0.28, r * 0.28, (16, 16, 18))
        if genome["glasses"] == "yes":
            ellipse(
                x, ey, r * 1.62, r * 1.5, None, outline=(24, 24, 28), width=max(3, round(0.022 * w))
            )
        else:
            d.line(
                [x - r, ey - r * 1.5, x + r, ey - r * 1.6],
                fill=hair_dark,
                width=max(2, round(0.015 * w)),
            )
    if genome["glasses"] == "yes":
        d.line(
            [cx - ex + r * 1.5 + turn, ey, cx + ex - r * 1.5 + turn, ey],
            fill=(24, 24, 28),
            width=max(3, round(0.02 * w)),
        )
    d.line(
        [cx + turn * 1.4, cy + fh * 0.02, cx + turn * 1.9 + fw * 0.06, cy + fh * 0.24],
        fill=shade,
        width=max(3, round(0.018 * w)),
    )
    # mouth
    mx, my, lips = cx + turn, cy + fh * 0.5, tone((168, 44, 52))
    if genome["mouth"] == "smile":
        d.chord([mx - fw * 0.36, my - fh * 0.22, mx + fw * 0.36, my + fh * 0.14], 8, 172, fill=lips)
    elif genome["mouth"] == "line":
        d.line([mx - fw * 0.3, my, mx + fw * 0.3, my], fill=lips, width=max(4, round(0.022 * w)))
    else:
        ellipse(mx, my, fw * 0.17, fh * 0.13, tone((110, 20, 28)))
    if hat_colour := HATS[genome["hat"]]:
        hat, hat_dark = tone(COLOURS[hat_colour]), tone(COLOURS[hat_colour], 0.75)
        d.rounded_rectangle(
            [cx - fw * 0.92, cy - fh * 1.62, cx + fw * 0.92, cy - fh * 0.66],
            radius=fw * 0.3,
            fill=hat,
        )
        d.rounded_rectangle(
            [cx - fw * 1.3, cy - fh * 0.82, cx + fw * 1.3, cy - fh * 0.6],
            radius=fw * 0.1,
            fill=hat_dark,
        )
    return image.reduce(2)


def draw_scene(objects: list[dict], rng: Random) -> Image.Image:
    """One view of a scene, RGB, SIZE x SIZE. Each object: shape, colour, size, cell (0..3, reading
    order), at most one a cell."""
    ground = rng.randrange(168, 200)
    image = Image.new(
        "RGB",
        (_WORK, _WORK),
        (ground, ground + rng.randrange(-4, 8), ground + rng.randrange(-4, 12)),
    )
    d = ImageDraw.Draw(image)
    half = _WORK / 2
    for o in objects:
        r = half * (0.40 if o["size"] == "large" else 0.23) * rng.uniform(0.95, 1.05)
        x = half * (o["cell"] % 2 + 0.5) + half * rng.uniform(-0.06, 0.06)
        y = half * (o["cell"] // 2 + 0.5) + half * rng.uniform(-0.06, 0.06)
        light = rng.uniform(0.92, 1.06)
        fill = tuple(max(0, min(255, round(c * light))) for c in COLOURS[o["colour"]])
        if o["shape"] == "circle":
            d.ellipse([x - r, y - r, x + r, y + r], fill=fill)
        elif o["shape"] == "square":
            d.rectangle([x - r * 0.9, y - r * 0.9, x + r * 0.9, y + r * 0.9], fill=fill)
        elif o["shape"] == "triangle":
            d.polygon([(x - r, y + r * 0.85), (x + r, y + r * 0.85), (x, y - r)], fill=fill)
        else:
            d.polygon([(x + dx * r * 1.1, y + dy * r * 1.1) for dx, dy in _STAR], fill=fill)
    return image.reduce(2)


_STAR = (
    (0, -1),
    (0.25, -0.33),
    (0.95, -0.31),
    (0.38, 0.13),
    (0.59, 0.81),
    (0, 0.42),
    (-0.59, 0.81),
    (-0.38, 0.13),
    (-0.95, -0.31),
    (-0.25, -0.33),
)
