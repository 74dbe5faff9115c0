"""Two dozen questions that anybody answers, without a picture: for `preflight`."""

from __future__ import annotations

from random import Random

from pulse_lib.data.records import Question

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


def common_questions(seed: int = 0) -> list[Question]:
    """Questions in text with four options each, their order drawn from the seed."""
    made = []
    for number, (text, *options) in enumerate(_ASKED):
        order = list(options)
        Random(f"common/{seed}/{number}").shuffle(order)
        made.append(
            Question(
                id=f"common/{number:02d}",
                set="general",
                scenario="",
                person_id="",
                request=0,
                modality="text",
                text=text,
                options=tuple(order),
                answer=order.index(options[0]),
                image="",
                category="common",
                wording="trained",
            )
        )
    return made
