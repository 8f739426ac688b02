"""The embedded conversations: questions about generated reviews and their answers, the same for the same seed.

An answer quotes the review and judges it, so it is learned in steps: its form within some updates, what to quote and how many
stars to give only later. Lengths are long-tailed, since a conversation goes on with further questions and reviews.
"""

from dataclasses import dataclass
from random import Random

from tradeoff.objectives.data import phrases
from tradeoff.objectives.data.phrases import ASPECTS
from tradeoff.objectives.data.reviews import opinion_sentence, stars_of

Message = dict[str, str]

INSTRUCTIONS = "You read reviews of restaurants and answer briefly."
INSTRUCTED_SHARE = 0.25
FILLER_SHARE = 0.3
# Of what goes on, this share goes on once more.
NEXT_QUESTION_SHARE = 0.45
NEXT_REVIEW_SHARE = 0.35
MAX_REVIEWS = 8
MAX_OPINIONS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class _Review:
    """A short review; `opinions` has the sentence about each aspect."""

    text: str
    stars: int
    reason: str
    opinions: dict[str, str]


def generate_conversations(count: int, *, seed: int) -> list[list[Message]]:
    """Generate conversations; a smaller count with the same seed gives the first of them.

    Example:
        >>> generate_conversations(2, seed=0) == generate_conversations(5, seed=0)[:2]
        True
    """
    draw = Random(seed)
    return [_conversation(draw) for _ in range(count)]


def _conversation(draw: Random) -> list[Message]:
    messages = [{"role": "system", "content": INSTRUCTIONS}] if draw.random() < INSTRUCTED_SHARE else []
    for number in range(MAX_REVIEWS):
        if number and draw.random() >= NEXT_REVIEW_SHARE:
            break
        review = _review(draw)
        turns = [_opening(review, draw)]
        while draw.random() < NEXT_QUESTION_SHARE:
            turns.append(_question(review, draw))
        for question, answer in turns:
            messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return messages


def _review(draw: Random) -> _Review:
    names = draw.sample(sorted(ASPECTS), draw.randint(1, MAX_OPINIONS))
    opinions = [draw.choice((-2, -1, 1, 2)) for _ in names]
    said = {name: opinion_sentence(ASPECTS[name], of, draw) for name, of in zip(names, opinions, strict=True)}
    sentences = list(said.values())
    if draw.random() < FILLER_SHARE:
        sentences.insert(draw.randint(0, len(sentences)), draw.choice(phrases.FILLERS))
    stars = stars_of(opinions)
    telling = max(opinions) if stars >= 3 else min(opinions)
    return _Review(
        text=" ".join(f"{sentence[0].upper()}{sentence[1:]}." for sentence in sentences),
        stars=stars,
        reason=said[names[opinions.index(telling)]],
        opinions=said,
    )


def _opening(review: _Review, draw: Random) -> tuple[str, str]:
    if draw.random() < 0.7:
        return f"Rate this review: {review.text}", f"{review.stars} star{'s' * (review.stars > 1)}: {review.reason}."
    thanks = "Thank you! We are glad that" if review.stars >= 3 else "We are sorry that"
    return f"Write a reply to this review: {review.text}", f"{thanks} {review.reason}."


def _question(review: _Review, draw: Random) -> tuple[str, str]:
    if draw.random() < 0.3:
        return "Would they come back?", {1: "Never.", 2: "No.", 3: "Perhaps.", 4: "Yes.", 5: "Certainly!"}[review.stars]
    name = draw.choice(sorted(ASPECTS))
    said = review.opinions.get(name)
    answer = f"It does not mention the {name}." if said is None else f"It says that {said}."
    return f"What does it say about the {name}?", answer
