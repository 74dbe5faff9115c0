"""Pictures as a person sees them: every kind of file gives the right pixels, or a sentence; the same
for people and for benchmarks."""

import io
import struct
import zlib

import mllmu_files
import mmbench_files
import numpy as np
import pytest
import tiny
from PIL import Image

from pulse_lib.data import pictures
from pulse_lib.data.mllmu import files as mllmu
from pulse_lib.data.mmbench import source as mmbench
from pulse_lib.data.records import ImageStore
from pulse_lib.data.world import people as world
from pulse_lib.errors import PulseError
from pulse_lib.model import features

RAMP = np.linspace(0, 65535, 64 * 48).reshape(48, 64).astype(np.uint16)
GREY = ((RAMP.astype(np.uint32) + 128) // 257).astype(np.uint8)


def file(image, form="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def big_endian_tiff(values):
    """A 16-bit grey TIFF as scanners write it, in the byte order that Pillow does not write."""
    data = values.astype(">u2").tobytes()
    height, width = values.shape
    tags = [(256, width), (257, height), (258, 16), (259, 1), (262, 1), (273, 8)]
    tags += [(277, 1), (278, height)]
    entries = b"".join(struct.pack(">HHIHH", tag, 3, 1, value, 0) for tag, value in tags)
    entries += struct.pack(">HHII", 279, 4, 1, len(data))
    directory = struct.pack(">H", len(tags) + 1) + entries + struct.pack(">I", 0)
    return b"MM" + struct.pack(">HI", 42, 8 + len(data)) + data + directory


@pytest.mark.parametrize("form", ["PNG", "TIFF", "big-endian TIFF", "PPM"])
def test_16_bit_grey_keeps_its_greys(form):
    deep = Image.fromarray(RAMP)
    assert deep.mode == "I;16"
    if form == "PPM":
        encoded = b"P5 64 48 65535\n" + RAMP.astype(">u2").tobytes()
    else:
        encoded = big_endian_tiff(RAMP) if form.startswith("big") else file(deep, form)
    shown = pictures.decoded(encoded)
    assert shown.mode == "RGB" and np.array_equal(np.asarray(shown)[..., 0], GREY)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(pictures.plain(encoded))))[..., 1], GREY)


def test_a_clear_grey_of_a_16_bit_picture_is_white():
    deep = Image.fromarray(np.array([[0, 30000], [30000, 65535]], np.uint16))
    encoded = file(deep)
    at = encoded.index(b"IDAT") - 4
    body = b"tRNS" + struct.pack(">H", 30000)
    chunk = struct.pack(">I", 2) + body + struct.pack(">I", zlib.crc32(body))
    shown = pictures.decoded(encoded[:at] + chunk + encoded[at:])
    assert np.asarray(shown)[..., 0].tolist() == [[0, 255], [255, 255]]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_every_picture_stands_upright(form, orientation):
    """The picture lies in the file as a camera held that way would store it."""
    upright = Image.new("RGB", (32, 48), "white")
    upright.paste((255, 0, 0), (0, 0, 16, 16))  # red at the top left
    upright.paste((0, 0, 255), (16, 32, 32, 48))  # blue at the bottom right
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Pillow's Transpose
    stored = upright.transpose(undo[orientation]) if orientation in undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if form == "WEBP" else {"quality": 95, "subsampling": 0}
    options = options if form in ("WEBP", "JPEG") else {}
    encoded = file(stored, form, exif=exif, **options)
    shown = pictures.decoded(encoded)
    assert shown.size == upright.size
    assert np.abs(np.asarray(shown).astype(int) - np.asarray(upright)).max() < 12
    kept = pictures.plain(encoded)
    assert (kept == encoded) == (orientation == 1 and form != "TIFF")
    with Image.open(io.BytesIO(kept)) as again:
        assert again.size == upright.size and again.getexif().get(0x0112, 1) == 1


def clear(mode):
    """A black pixel, and a clear one."""
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((0, 0), (0, 0, 0, 255))
    if mode in ("RGBA", "LA"):
        return file(image.convert(mode))
    index = Image.new(mode, (2, 1), 0)
    if mode == "P":
        index.putpalette([0, 0, 0] * 9 + [200, 0, 0])
    index.putpixel((1, 0), (9, 9, 9) if mode == "RGB" else 9)
    return file(index, transparency=(9, 9, 9) if mode == "RGB" else 9)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "RGB"])
def test_what_is_clear_is_white_for_people_and_benchmarks(tmp_path, mode):
    encoded = clear(mode)
    shown = pictures.decoded(encoded)
    assert [shown.getpixel((x, 0)) for x in (0, 1)] == [(0, 0, 0), (255, 255, 255)]
    row = mllmu_files.row(world.fictitious()[0], 7) | {"image": {"bytes": encoded, "path": "x"}}
    mllmu_files.write_subset(tmp_path, "Full_Set", [row])
    person = mllmu.load_people(tmp_path, "Full_Set")[0]
    rows = mmbench_files.group(5, ["a", "b"], 0, picture=encoded)
    with pytest.warns(UserWarning, match="is not MMBench"):
        questions, images = mmbench.load_mmbench(mmbench_files.write_rows(tmp_path / "d.tsv", rows))
    assert person.photos[0] == images.encoded[questions[0].image]
    assert images[questions[0].image].tobytes() == shown.tobytes()


def test_what_any_program_shows_right_stays_as_the_file_has_it():
    drawn = Image.linear_gradient("L").resize((50, 40))
    for image, form in ((drawn, "PNG"), (drawn, "JPEG"), (drawn.convert("RGB"), "WEBP")):
        assert pictures.plain(file(image, form)) == file(image, form)
    assert pictures.as_seen(drawn.convert("RGB")).tobytes() == drawn.convert("RGB").tobytes()


def test_what_a_source_adds_is_stored_as_it_is_seen():
    exif = Image.Exif()
    exif[0x0112] = 6
    sideways = Image.open(io.BytesIO(file(Image.new("RGB", (8, 4), "red"), "JPEG", exif=exif)))
    store = ImageStore()
    store.add("sideways", sideways)
    store.add("deep", Image.fromarray(RAMP))
    store.add("clear", Image.open(io.BytesIO(clear("RGBA"))))
    assert store["sideways"].size == (4, 8)
    assert np.array_equal(np.asarray(store["deep"])[..., 0], GREY)
    assert store["clear"].getpixel((1, 0)) == (255, 255, 255)
    with pytest.raises(PulseError, match="'float' cannot be used: 32-bit grey"):
        store.add("float", Image.new("F", (4, 4)))


WHOLE = file(Image.effect_noise((80, 60), 90).convert("RGB"))
BROKEN = {
    "cut off": (WHOLE[:-3000], "truncated|cut|incomplete|broken"),
    "a web page": (b"<!DOCTYPE html><html>", "no picture file .it begins with b'<!DOCTYPE"),
    "nothing": (b"", "no picture file"),
    "a large one": (
        WHOLE[:16] + struct.pack(">II", 10000, 10000) + WHOLE[24:29] + struct.pack(
            ">I", zlib.crc32(b"IHDR" + struct.pack(">II", 10000, 10000) + WHOLE[24:29])
        ) + WHOLE[33:],
        "10000 x 10000 pixels, at most 89 million",
    ),
    "32-bit grey": (file(Image.new("F", (4, 4), 0.5), "TIFF"), "no fixed white"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_picture_is_named_by_person_row_or_id(tmp_path, name):
    encoded, why = BROKEN[name]
    with pytest.raises(ValueError, match=why):
        pictures.decoded(encoded)
    row = mllmu_files.row(world.fictitious()[0], 7) | {
        "image": {"bytes": encoded or b"\n", "path": "x"}
    }
    mllmu_files.write_subset(tmp_path, "Full_Set", [row])
    with pytest.raises(PulseError, match="row 0, column image: the picture cannot be decoded"):
        mllmu.load_people(tmp_path, "Full_Set")
    rows = mmbench_files.group(5, ["a", "b"], 0, picture=encoded + b" " * 99)
    with pytest.raises(PulseError, match=r"row 0 .index 5., column image: cannot be decoded"):
        mmbench.load_mmbench(mmbench_files.write_rows(tmp_path / "d.tsv", rows))
    with pytest.raises(PulseError, match="'x' of the image store cannot be decoded"):
        ImageStore({"x": encoded})["x"]


# --- a strip does not cost a gigabyte ---------------------------------------------------------


@pytest.mark.parametrize("size", [(10000, 10), (10, 10000), (9000, 3)])
@pytest.mark.parametrize("aspect", ["pad", "crop"])
def test_a_strip_is_small_before_it_is_scaled(monkeypatch, size, aspect):
    model = tiny.tiny_model(image_aspect=aspect)
    store = ImageStore()
    store.add("strip", Image.linear_gradient("L").resize(size).convert("RGB"))
    given = []
    read = type(model.processor.image_processor).__call__

    def spy(self, images, **options):
        given.extend(image.size for image in images)
        return read(self, images, **options)

    monkeypatch.setattr(type(model.processor.image_processor), "__call__", spy)
    model.features.add(["strip"], store)
    (width, height) = given[0]
    assert model.features.get(["strip"]).isfinite().all()
    if aspect == "pad":
        assert width == height == features.MOST_SIDE
    else:
        assert max(width, height) == 8 * min(width, height) and min(width, height) == min(size)


def test_a_strip_keeps_its_middle_and_others_are_left_alone():
    strip = Image.new("RGB", (1000, 10), "white")
    strip.paste((255, 0, 0), (500, 0, 501, 10))
    cut = features.without_ends(strip)
    assert cut.size == (80, 10) and cut.getpixel((40, 5)) == (255, 0, 0)
    wide = Image.new("RGB", (80, 10))
    assert features.without_ends(wide) is wide
    padded = features.pad_to_square(Image.new("RGB", (8192, 4096), "white"))
    assert padded.size == (4096, 4096)
    assert padded.getpixel((0, 1023)) == features.MEAN_COLOUR
    assert padded.getpixel((0, 1024)) == (255, 255, 255)


def test_pictures_are_read_one_by_one_with_the_same_bits():
    """One at a time, so that no batch of large photos lies in memory; the tower's batch is whole."""
    model = tiny.tiny_model()
    shown = [tiny.picture(k).resize((40 + 9 * k, 60)) for k in range(5)]
    together = model.processor.image_processor(images=shown, return_tensors="pt")["pixel_values"]
    seen = []
    tower = model.network.model.vision_tower
    handle = tower.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    features.vision_features(model.network, model.processor, pictures=iter(shown))
    handle.remove()
    assert len(seen) == 1 and seen[0].equal(together)
