import statistics
from collections import Counter
from pathlib import Path

import pytest

from tradeoff.objectives.data.phrases import ASPECTS
from tradeoff.objectives.data.reviews import generate_reviews, stars_of

REAL_REVIEWS = Path(__file__).parents[4] / "shared" / "data" / "yelp_reviews.csv"


def test_the_same_seed_gives_the_same_reviews_and_another_seed_gives_others():
    assert generate_reviews(20, seed=7) == generate_reviews(20, seed=7)
    assert generate_reviews(20, seed=7) != generate_reviews(20, seed=8)


def test_a_seed_means_the_same_reviews_everywhere():
    # Studies are compared across machines and Python versions: a change here changes every recorded result.
    assert [review.stars for review in generate_reviews(8, seed=42)] == [1, 1, 1, 1, 2, 2, 5, 3]


def test_asking_for_fewer_gives_the_first_ones():
    assert generate_reviews(5, seed=1) == generate_reviews(50, seed=1)[:5]


def test_every_star_has_about_a_fifth_of_the_reviews():
    counts = Counter(review.stars for review in generate_reviews(5000, seed=3))
    assert set(counts) == {1, 2, 3, 4, 5}
    assert all(900 <= count <= 1100 for count in counts.values())


@pytest.mark.parametrize(
    ("opinions", "stars"),
    [([-2, -2], 1), ([-1, -1, -1], 2), ([-2, 2], 3), ([1, -1], 3), ([1, 1, 2, 0], 4), ([2, 2, 2], 5), ([2], 5)],
)
def test_stars_follow_the_mean_of_the_opinions(opinions, stars):
    assert stars_of(opinions) == stars


def test_reviews_are_long_tailed():
    words = sorted(len(review.text.split()) for review in generate_reviews(4000, seed=5))
    assert words[0] >= 4
    assert words[-1] > 8 * statistics.median(words)


@pytest.mark.skipif(not REAL_REVIEWS.exists(), reason="the real reviews are not here")
def test_lengths_have_the_shape_of_real_ones():
    import pandas as pd

    real = pd.read_csv(REAL_REVIEWS)["text"].str.split().str.len()
    generated = pd.Series([len(review.text.split()) for review in generate_reviews(4000, seed=5)])
    for quantile in (0.25, 0.75, 0.9, 0.95):
        assert generated.quantile(quantile) / generated.median() == pytest.approx(
            real.quantile(quantile) / real.median(), rel=0.25
        )


def test_long_reviews_judge_several_things():
    judged = [sum(any(subject in review.text.lower() for subject in aspect.subjects) for aspect in ASPECTS.values())
              for review in generate_reviews(500, seed=9) if len(review.text.split()) >= 60]  # fmt: skip
    assert min(judged) >= 5


def test_the_same_word_serves_both_sides_because_of_negation():
    reviews = generate_reviews(5000, seed=11)
    praised = {review.stars for review in reviews if "not tasty" in review.text or "not good" in review.text}
    plain = {review.stars for review in reviews if review.text.lower().startswith("the food was tasty.")}
    assert 2 in praised
    assert plain <= {3, 4, 5}
    assert plain
