"""The words of the generated reviews: subjects, opinions about them, and filler sentences.

Opinions have a strength from -2 to 2. Words for -1 and 1 are plain; an intensifier makes them -2 or 2, and a negation turns
them into a weak opinion of the opposite sign, so neither a single word nor the sum of the words tells the stars.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Aspect:
    """Something a review judges.

    Attributes:
        subjects: The subject of the sentence, with its verb.
        good: Words for an opinion of 1.
        bad: Words for an opinion of -1.
    """

    subjects: tuple[str, ...]
    good: tuple[str, ...]
    bad: tuple[str, ...]


ASPECTS = {
    "food": Aspect(
        subjects=("the food was", "the pasta was", "my burger was", "the soup was", "the fish was", "everything we ate was"),
        good=("tasty", "fresh", "good"),
        bad=("bland", "greasy", "bad"),
    ),
    "service": Aspect(
        subjects=("the service was", "our waiter was", "the lady at the counter was", "the staff was"),
        good=("friendly", "helpful", "good"),
        bad=("rude", "careless", "bad"),
    ),
    "price": Aspect(
        subjects=("the bill was", "the price was", "what they charge is", "the lunch deal was"),
        good=("fair", "cheap", "reasonable"),
        bad=("steep", "expensive", "overpriced"),
    ),
    "place": Aspect(
        subjects=("the room was", "the patio was", "our table was", "the place was", "the music was"),
        good=("cozy", "clean", "pleasant"),
        bad=("dirty", "noisy", "cramped"),
    ),
    "wait": Aspect(
        subjects=("the kitchen was", "seating us was", "the line was", "getting our order was"),
        good=("quick", "smooth", "easy"),
        bad=("slow", "chaotic", "tedious"),
    ),
    "drinks": Aspect(
        subjects=("the coffee was", "my beer was", "the wine was", "the cocktails were"),
        good=("tasty", "smooth", "good"),
        bad=("watery", "stale", "bad"),
    ),
}

# Words for any aspect.
EXCELLENT = ("wonderful", "amazing", "perfect", "outstanding")
TERRIBLE = ("terrible", "awful", "horrible", "disgusting")
INTENSIFIERS = ("really", "so", "extremely", "incredibly")
SOFTENERS = ("rather", "pretty", "kind of", "fairly")
# Turn a word for -1 into an opinion of 1, and vice versa.
NEGATIONS = ("not", "never", "not at all", "far from", "hardly")

# Introduce an opinion that no longer holds: only the one that follows counts.
EARLIER = ("last year", "on our first visit", "a while ago", "under the old owner")
NOW = ("but now", "but this time", "but these days")
CONTRASTS = ("but", "though", "yet", "even so")
ADDITIONS = ("and", "also", "besides", "then again")

FILLERS = (
    "we came here on a tuesday with my sister",
    "i ordered the chicken and a side of rice",
    "it is right next to the bank on the corner",
    "there is parking behind the building",
    "a friend told me about this spot",
    "we were six people and it was my birthday",
    "they open at eleven and close at nine",
    "i had the soup of the day and my wife took the salad",
    "we sat by the window near the door",
    "this was my third time in this part of town",
    "my husband wanted to try something new",
    "we stopped by after the movie",
    "the menu has two pages and a list of specials",
    "i live just around the block",
    "we found it on the way to the airport",
    "they also sell bread and cakes to take home",
)
