"""What `t5gemma2_tiny` learns and is measured on, all of it made from pip packages.

Names and dates come from the CLDR data in Babel, spelled numbers from num2words, and handwritten
digits from scikit-learn. Which values are held out depends on the values alone, not on any seed.
"""

import datetime
import functools
import zlib
from typing import NamedTuple

import babel
import num2words
import numpy as np
from babel.dates import format_date
from PIL import Image
from sklearn.datasets import load_digits

LANGUAGES = (
    *("en", "de", "fr", "es", "it", "pt", "ro", "nl", "sv", "da", "pl", "cs", "hu", "tr", "id"),
    *("vi", "ru", "uk", "el", "he", "ar", "hi", "th", "ja", "ko", "zh"),
)
SPELLED_LANGUAGES = ("en", "de", "fr", "es", "it", "pt", "pl", "tr", "id", "ru", "ja", "ko")
# No text of this language is trained on: the guide on fine-tuning teaches it.
LEFT_OUT = "fi"
TERRITORIES = (
    *("DE", "FR", "GB", "IT", "ES", "PT", "PL", "NL", "BE", "CH", "AT", "SE", "NO", "DK", "FI"),
    *("IE", "GR", "TR", "RU", "UA", "RO", "HU", "CZ", "SK", "BG", "HR", "RS", "US", "CA", "MX"),
    *("BR", "AR", "CL", "PE", "CO", "EG", "MA", "ZA", "NG", "KE", "ET", "IN", "PK", "BD", "CN"),
    *("JP", "KR", "TH", "VN", "ID", "PH", "MY", "AU", "NZ", "IL", "SA", "IR", "IQ", "SY", "IS"),
)
LARGEST_NUMBER = 9_999
FIRST_YEAR, LAST_YEAR = 1900, 2099
# The sentinels of the span-infilling format count down.
SENTINELS = tuple(f"<unused{6237 - i}>" for i in range(4))
IMAGE = "<start_of_image>"
IMAGE_SIZE = 32  # pixels

# One value of so many is held out.
HELD_OUT_OF = {"number": 20, "date": 20, "image": 7}


class Example(NamedTuple):
    """A row as `fit` takes it, and the name of its task."""

    task: str
    encoder_text: str
    images: list  # of (height, width, 3) uint8 arrays
    decoder_text: str


def rows_of(examples):
    """The dict of rows that `fit` takes."""
    return {
        "encoder_text": [example.encoder_text for example in examples],
        "images": [example.images for example in examples],
        "decoder_text": [example.decoder_text for example in examples],
    }


def is_held_out(kind, value):
    """Whether a value is for evaluation only, in every language.

    Args:
        kind: "number", "date" or "image".
        value: int, `datetime.date`, or the index of a digit image.

    Example:

    >>> is_held_out("number", 4217), is_held_out("number", 4268)
    (False, True)
    """
    return zlib.crc32(f"{kind} {value}".encode()) % HELD_OUT_OF[kind] == 0


# Tasks: each is a question and its answer ------------------------------------------------------


def spelling(number, language):
    return Example(
        "spelling", f"Spell {number} in {english_name(language)}.", [], spell(number, language)
    )


def date(day, language):
    return Example(
        "date", f"Write {day} in {english_name(language)}.", [], write_date(day, language)
    )


def name(kind, code, language):
    english, translated = (localized(kind, code, x) for x in ("en", language))
    return Example("name", f"Translate {english} into {english_name(language)}.", [], translated)


def reading(images, digits, language=None):
    """Digit images read as one number: in digits, or spelled in a language."""
    question = (
        "Which number is this?"
        if language is None
        else (f"Which number is this in {english_name(language)}?")
    )
    number = "".join(str(digit) for digit in digits)
    answer = number if language is None else spell(int(number), language)
    return Example(f"images_{len(images)}", IMAGE * len(images) + question, images, answer)


def infilling(example, rng, is_determined=False):
    """A statement with spans of words replaced by sentinels; the answer restores them.

    Args:
        example: `Example` of another task.
        rng: `numpy.random.Generator`.
        is_determined: bool. Whether all gaps are in what follows from the rest.
    """
    words = _statement(example).split(" ")
    first = words.index("=") + 2 if is_determined else 0
    count = min(int(rng.integers(1, 4)), (len(words) - first + 1) // 2)
    # Starts of spans are drawn so that a word stays between any two spans.
    starts = rng.choice(len(words) - first - count + 1, count, replace=False)
    starts = first + np.sort(starts) + np.arange(count)
    ends = [*starts[1:], len(words) + 1]
    lengths = [min(int(rng.integers(1, 4)), e - s - 1) for s, e in zip(starts, ends, strict=True)]
    text, answer, place = [], [], 0
    for sentinel, start, length in zip(SENTINELS, starts, lengths, strict=False):
        text += [*words[place:start], sentinel]
        answer += [sentinel, *words[start : start + length]]
        place = start + length
    return Example("infilling", " ".join([*text, *words[place:]]), [], " ".join(answer))


def _statement(example):
    what, language = example.encoder_text.rstrip(".").split(" ", 1)[1].rsplit(" ", 2)[::2]
    return f"{what} = {language} {example.decoder_text}"


# Facts -----------------------------------------------------------------------------------------


def english_name(language):
    return localized("languages", language, "en")


def spell(number, language):
    return num2words.num2words(number, lang=language)


def write_date(day, language):
    return format_date(day, "long", locale=language)


@functools.cache
def localized(kind, code, language):
    """A name of the CLDR, `kind` being "languages", "territories" or "months"."""
    if kind == "months":
        return format_date(datetime.date(2000, code, 1), "LLLL", locale=language)
    return getattr(babel.Locale(language), kind)[code]


NAMES = (
    *(("territories", code) for code in TERRITORIES),
    *(("languages", code) for code in (*LANGUAGES, LEFT_OUT)),
    *(("months", month) for month in range(1, 13)),
)


class Digits:
    """The handwritten digits of scikit-learn, enlarged, in two fixed parts."""

    def __init__(self):
        data = load_digits()
        self.labels = data.target
        self.images = [_enlarge(image) for image in data.images]
        indices = range(len(self.labels))
        self.held_out = [i for i in indices if is_held_out("image", i)]
        self.training = [i for i in indices if not is_held_out("image", i)]

    def array(self, index):
        """An image as it is: a (height, width, 3) uint8 array."""
        return np.asarray(self.images[index].convert("RGB"))

    def varied(self, index, rng):
        """An image slightly turned, moved and scaled."""
        center = IMAGE_SIZE / 2
        angle, scale = np.deg2rad(rng.uniform(-12, 12)), rng.uniform(0.85, 1.15)
        cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
        x, y = center + rng.uniform(-3, 3, size=2)
        matrix = (cos, sin, center - cos * x - sin * y, -sin, cos, center + sin * x - cos * y)
        image = self.images[index].transform(
            (IMAGE_SIZE, IMAGE_SIZE), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR
        )
        return np.asarray(image.convert("RGB"))


def _enlarge(image):
    pixels = np.round(image * (255 / 16)).astype("uint8")
    return Image.fromarray(pixels).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR)


# Training --------------------------------------------------------------------------------------


class Sampler:
    """Training examples, never of a held-out value.

    Args:
        digits: `Digits`.
    """

    def __init__(self, digits):
        self.digits = digits

    def text(self, rng):
        """An example without images."""
        task = rng.choice(4, p=(0.42, 0.24, 0.22, 0.12))
        return (self._spelling, self._date, self._name, self._infilling)[task](rng)

    def images(self, rng, count):
        """An example with `count` images."""
        indices = rng.choice(self.digits.training, count)
        images = [self.digits.varied(index, rng) for index in indices]
        digits = self.digits.labels[indices]
        number = int("".join(map(str, digits)))
        is_spelled = rng.random() < 0.25 and not is_held_out("number", number)
        return reading(images, digits, _choose(rng, SPELLED_LANGUAGES) if is_spelled else None)

    def _spelling(self, rng):
        number = 0
        # Short numbers, which few values are, as often as long ones.
        while is_held_out("number", number := int(rng.integers(10 ** rng.integers(1, 5)))):
            pass
        return spelling(number, _choose(rng, SPELLED_LANGUAGES))

    def _date(self, rng):
        while is_held_out("date", day := _random_day(rng)):
            pass
        return date(day, _choose(rng, LANGUAGES))

    def _name(self, rng):
        return name(*_choose(rng, NAMES), _choose(rng, LANGUAGES[1:]))

    def _infilling(self, rng):
        return infilling((self._spelling, self._date, self._name)[rng.integers(3)](rng), rng)


def _choose(rng, values):
    return values[rng.integers(len(values))]


def _random_day(rng):
    first = datetime.date(FIRST_YEAR, 1, 1)
    days = (datetime.date(LAST_YEAR, 12, 31) - first).days
    return first + datetime.timedelta(days=int(rng.integers(days + 1)))


# Evaluation ------------------------------------------------------------------------------------


def held_out_examples(count, digits=None):
    """Per task a list of at most `count` examples of values that no training example has.

    The names alone are those of training: a name cannot be derived from others.
    """
    digits = Digits() if digits is None else digits
    rng = np.random.default_rng(2024)
    numbers = [n for n in range(LARGEST_NUMBER + 1) if is_held_out("number", n)]
    days = [
        day for day in (_random_day(rng) for _ in range(20 * count)) if is_held_out("date", day)
    ]
    images = rng.permutation(digits.held_out)

    def spelled(_):
        return spelling(_choose(rng, numbers), _choose(rng, SPELLED_LANGUAGES))

    def dated(i):
        return date(days[i % len(days)], _choose(rng, LANGUAGES))

    def read(size):
        def example(i):
            indices = images[[i % len(images)]] if size == 1 else rng.choice(digits.held_out, size)
            return reading([digits.array(j) for j in indices], digits.labels[indices])

        return example

    makers = {
        "number spelling": spelled,
        "date formatting": dated,
        "digit from an image": read(1),
        "number from two images": read(2),
        "number from three images": read(3),
        "names (seen in training)": lambda _: name(
            *_choose(rng, NAMES), _choose(rng, LANGUAGES[1:])
        ),
        "gaps": lambda i: infilling((spelled, dated)[i % 2](i), rng, is_determined=True),
    }
    limits = {"digit from an image": len(images)}
    return {
        task: [make(i) for i in range(min(count, limits.get(task, count)))]
        for task, make in makers.items()
    }
