"""Questions that anybody answers: two dozen without a picture, and words to be read from one. For
`preflight`.
"""

from __future__ import annotations

from random import Random

from PIL import Image, ImageDraw, ImageFont

from pulse_lib.data.records import ImageStore, Question, general_question

# Each with its answer first and three that are wrong.
_ASKED = (
    ("What is the capital of France?", "Paris", "Madrid", "Berlin", "Rome"),
    ("What is the capital of Japan?", "Tokyo", "Seoul", "Beijing", "Bangkok"),
    ("Which planet do we live on?", "Earth", "Mars", "Venus", "Jupiter"),
    ("What is frozen water called?", "Ice", "Steam", "Sand", "Smoke"),
    ("How many days has a week?", "Seven", "Five", "Ten", "Twelve"),
    ("How many legs has a spider?", "Eight", "Six", "Four", "Ten"),
    ("What do bees make?", "Honey", "Milk", "Cheese", "Silk"),
    ("Which animal barks?", "Dog", "Cat", "Cow", "Duck"),
    ("Which of these is a fruit?", "Apple", "Hammer", "Chair", "Window"),
    ("What colour is a ripe banana?", "Yellow", "Blue", "Purple", "Black"),
    ("In which season does it snow most?", "Winter", "Summer", "Spring", "Autumn"),
    ("What do people use to cut paper?", "Scissors", "Spoon", "Pillow", "Bucket"),
    ("What is two plus three?", "Five", "Four", "Six", "Eight"),
    ("What is ten minus four?", "Six", "Seven", "Three", "Nine"),
    ("Who wrote the play Hamlet?", "Shakespeare", "Mozart", "Einstein", "Picasso"),
    ("Which ocean lies between Europe and America?", "Atlantic", "Pacific", "Indian", "Arctic"),
    ("On which continent is Egypt?", "Africa", "Asia", "Europe", "Australia"),
    ("What gas do people need to breathe?", "Oxygen", "Helium", "Neon", "Methane"),
    ("What is the opposite of hot?", "Cold", "Warm", "Dry", "Loud"),
    ("Which of these can fly?", "Eagle", "Shark", "Horse", "Snail"),
    ("What do you read?", "A book", "A shoe", "A spoon", "A lamp"),
    ("Where do fish live?", "In water", "In trees", "In the sky", "In books"),
    ("Which is the largest of these?", "Elephant", "Mouse", "Rabbit", "Ant"),
    ("Which month comes after June?", "July", "May", "March", "December"),
)

# Words of which no two are alike: letters alone would be taken for the letters of the options
_WRITTEN = ("BOOK", "MILK", "STOP", "HAND", "FIRE", "GATE", "ROSE", "LAMP", "CUPS", "TWIN", "JAZZ")
_PICTURE = 224  # pixels, square


def common_questions(seed: int = 0) -> list[Question]:
    """Questions in text with four options each, their order drawn from the seed."""
    made = []
    for number, (text, *options) in enumerate(_ASKED):
        right, draw = options[0], Random(f"common/{seed}/{number}")
        draw.shuffle(options)
        answer, tag = options.index(right), f"common/{number:02d}"
        made.append(general_question(tag, text, options=options, answer=answer, category="common"))
    return made


def written_questions(images: ImageStore, n: int, *, seed: int = 0) -> list[Question]:
    """`n` questions, each about a new picture of one word in dark letters on white: which it is, of four."""
    made = []
    for number in range(n):
        draw = Random(f"written/{seed}/{number}")
        options, answer, tag = draw.sample(_WRITTEN, 4), draw.randrange(4), f"written/{number:02d}"
        image = images.add(tag, _picture(options[answer], draw.randint(40, 64)))
        made.append(
            general_question(
                tag,
                "Which word is written in the picture?",
                options=options,
                answer=answer,
                image=image,
                category="written",
            )
        )
    return made


def _picture(word: str, height: int) -> Image.Image:
    picture = Image.new("RGB", (_PICTURE, _PICTURE), "white")
    middle = (_PICTURE / 2, _PICTURE / 2)
    font = ImageFont.load_default(size=height)
    ImageDraw.Draw(picture).text(middle, word, fill=(20, 20, 20), font=font, anchor="mm")
    return picture
