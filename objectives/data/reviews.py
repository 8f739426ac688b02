"""The embedded data set: generated reviews with one to five stars, shaped like real ones, the same for the same seed.

A review judges several things, and its stars are the mean of its opinions, so it has to be read as a whole: opinions are
mixed, negated ("not bad"), made stronger or weaker, and taken back ("last year the food was good, but now it is bland"). As
in real life, a few reviewers give one star more or fewer than their text suggests. Lengths follow real reviews: long-tailed,
the longest ten times the median, but shorter overall so that a small model can read them.
"""

import math
from dataclasses import dataclass
from random import Random

from tradeoff.objectives.data import phrases
from tradeoff.objectives.data.phrases import ASPECTS, Aspect

# Of real reviews, half have fewer than 88 words and a tenth more than 234. This is the same shape, scaled.
MEDIAN_WORDS = 24
LOG_SPREAD = 0.75
MIN_WORDS = 4
MAX_WORDS = 400
NOISE_SHARE = 0.02

# The relative frequency of an opinion of -2, -1, 1 and 2 in a review with this many stars, and the mean of its opinions, within
# a margin: a review that could as well have one star more or fewer teaches little.
_OPINIONS = (-2, -1, 1, 2)
_WEIGHTS = {1: (8, 1, 0, 0), 2: (1, 8, 1, 0), 3: (1, 3, 3, 1), 4: (0, 1, 8, 1), 5: (0, 0, 1, 8)}
_MEANS = {1: -1.9, 2: -0.9, 3: 0.0, 4: 0.9, 5: 1.9}
_MARGIN = 0.3
NEGATED_SHARE = 0.12
TAKEN_BACK_SHARE = 0.04


@dataclass(frozen=True, kw_only=True, slots=True)
class Review:
    """A generated review.

    Attributes:
        text: The text.
        stars: 1 to 5.
    """

    text: str
    stars: int


def generate_reviews(count: int, *, seed: int) -> list[Review]:
    """Generate reviews with equal shares of stars; a smaller count with the same seed gives the first of them.

    Example:
        >>> generate_reviews(2, seed=0) == generate_reviews(5, seed=0)[:2]
        True
    """
    draw = Random(seed)
    return [_review(draw) for _ in range(count)]


def stars_of(opinions: list[int]) -> int:
    """Return the stars of a review with these opinions, each from -2 to 2: those whose usual mean is nearest."""
    mean = sum(opinions) / len(opinions)
    return min(_MEANS, key=lambda stars: abs(mean - _MEANS[stars]))


def _review(draw: Random) -> Review:
    stars = draw.randint(1, 5)
    words = round(draw.lognormvariate(math.log(MEDIAN_WORDS), LOG_SPREAD))
    words = min(MAX_WORDS, max(MIN_WORDS, words))
    # An opinion takes about six words, a filler sentence about eight.
    opinions = _opinions(stars, min(len(ASPECTS), max(1, round(words / 10))), draw)
    names = draw.sample(sorted(ASPECTS), len(opinions))
    sentences = [opinion_sentence(ASPECTS[name], opinion, draw) for name, opinion in zip(names, opinions, strict=True)]
    sentences = _joined(sentences, opinions, draw)
    length = sum(len(sentence.split()) for sentence in sentences)
    while length + 8 <= words:
        filler = draw.choice(phrases.FILLERS)
        sentences.insert(draw.randint(0, len(sentences)), filler)
        length += len(filler.split())
    text = " ".join(sentence[0].upper() + sentence[1:] + draw.choice((".", ".", ".", "!")) for sentence in sentences)
    if draw.random() < NOISE_SHARE:
        stars = min(5, max(1, stars + draw.choice((-1, 1))))
    return Review(text=text, stars=stars)


def _opinions(stars: int, count: int, draw: Random) -> list[int]:
    """Draw opinions whose mean gives the stars; a single one can't give three."""
    count = max(count, 2) if stars == 3 else count
    while True:
        opinions = draw.choices(_OPINIONS, _WEIGHTS[stars], k=count)
        if abs(sum(opinions) / count - _MEANS[stars]) <= _MARGIN:
            return opinions


def opinion_sentence(aspect: Aspect, opinion: int, draw: Random) -> str:
    """Return a sentence with an opinion from -2 to 2, without 0, in lower case and without a full stop."""
    subject = draw.choice(aspect.subjects)
    if draw.random() < TAKEN_BACK_SHARE:
        before = f"{draw.choice(phrases.EARLIER)} {subject} {_judgement(aspect, draw.choice(_OPINIONS), draw)}"
        return f"{before} {draw.choice(phrases.NOW)} it is {_judgement(aspect, opinion, draw)}"
    return f"{subject} {_judgement(aspect, opinion, draw)}"


def _judgement(aspect: Aspect, opinion: int, draw: Random) -> str:
    same, other = (aspect.good, aspect.bad) if opinion > 0 else (aspect.bad, aspect.good)
    if abs(opinion) == 2:
        if draw.random() < 0.5:
            return draw.choice(phrases.EXCELLENT if opinion > 0 else phrases.TERRIBLE)
        return f"{draw.choice(phrases.INTENSIFIERS)} {draw.choice(same)}"
    way = draw.random()
    if way < NEGATED_SHARE:
        return f"{draw.choice(phrases.NEGATIONS)} {draw.choice(other)}"
    if way < 0.5:
        return f"{draw.choice(phrases.SOFTENERS)} {draw.choice(same)}"
    return draw.choice(same)


def _joined(sentences: list[str], opinions: list[int], draw: Random) -> list[str]:
    """Join some neighbouring opinions into one sentence, with a conjunction that fits their agreement."""
    joined = [sentences[0]]
    for before, opinion, sentence in zip(opinions, opinions[1:], sentences[1:], strict=False):
        if draw.random() < 0.4:
            link = draw.choice(phrases.ADDITIONS if before * opinion > 0 else phrases.CONTRASTS)
            joined[-1] = f"{joined[-1]}, {link} {sentence}"
        else:
            joined.append(sentence)
    return joined
