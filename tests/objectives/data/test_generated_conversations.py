import re
import statistics
from collections import Counter

from tradeoff.objectives.data.generated_conversations import INSTRUCTIONS, generate_conversations


def exchanges(count, seed):
    """Questions, each with the answer that follows."""
    for messages in generate_conversations(count, seed=seed):
        turns = [message["content"] for message in messages if message["role"] != "system"]
        yield from zip(turns[::2], turns[1::2], strict=True)


def test_the_same_seed_gives_the_same_conversations_and_another_seed_gives_others():
    assert generate_conversations(20, seed=7) == generate_conversations(20, seed=7)
    assert generate_conversations(20, seed=7) != generate_conversations(20, seed=8)
    assert generate_conversations(5, seed=7) == generate_conversations(20, seed=7)[:5]


def test_a_seed_means_the_same_conversations_everywhere():
    # Studies are compared across machines and Python versions: a change here changes every recorded result.
    assert generate_conversations(1, seed=42)[0][:2] == [
        {"role": "user", "content": "Rate this review: Seating us was easy."},
        {"role": "assistant", "content": "4 stars: seating us was easy."},
    ]


def test_user_and_assistant_take_turns_after_the_instructions_of_some():
    conversations = generate_conversations(400, seed=1)
    instructed = [messages for messages in conversations if messages[0]["role"] == "system"]
    assert 60 <= len(instructed) <= 140
    assert {messages[0]["content"] for messages in instructed} == {INSTRUCTIONS}
    for messages in conversations:
        roles = [message["role"] for message in messages if message["role"] != "system"]
        assert roles == ["user", "assistant"] * (len(roles) // 2)


def test_an_answer_that_gives_a_reason_quotes_the_review():
    rated = [(question, answer) for question, answer in exchanges(300, seed=2) if question.startswith("Rate this review: ")]
    for question, answer in rated:
        stars, reason = re.fullmatch(r"([1-5]) stars?: (.*)\.", answer).groups()
        assert reason in question.lower()
        assert answer.startswith("1 star:") == (stars == "1")
    counts = Counter(answer[0] for _, answer in rated)
    assert set(counts) == set("12345")
    assert min(counts.values()) > len(rated) / 20


def test_there_are_several_kinds_of_questions():
    kinds = Counter(re.split(r"[:?]|about", question)[0] for question, _ in exchanges(500, seed=3))
    assert set(kinds) == {"Rate this review", "Write a reply to this review", "Would they come back", "What does it say "}
    assert min(kinds.values()) > 50


def test_conversations_are_long_tailed():
    words = sorted(sum(len(of["content"].split()) for of in messages) for messages in generate_conversations(2000, seed=5))
    assert words[-1] > 5 * statistics.median(words)
