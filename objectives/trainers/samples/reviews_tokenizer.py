"""A tokenizer for the generated reviews, apart from the embedded model's file, which an export copies."""

from typing import Any

from tradeoff.objectives.data.reviews import generate_reviews
from tradeoff.objectives.trainers.embedded import embedded_tokenizer


def reviews_tokenizer() -> Any:
    """Return a tokenizer that knows the words of the generated reviews."""
    return embedded_tokenizer(review.text for review in generate_reviews(1000, seed=0))
