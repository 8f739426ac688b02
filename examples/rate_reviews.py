"""Reviews as conversations: "how many stars?", and the answer. `python rate_reviews.py reviews.csv conversations.jsonl`

The CSV file has the columns stars and text. A review is cut after its first words: a language model's memory and time grow with
the length of its texts.
"""

import argparse
import csv
import json
from pathlib import Path


def conversation(text: str, stars: str, *, words: int) -> dict[str, object]:
    """Return one review as TRL's `messages`: the answer alone counts in the loss."""
    review = " ".join(text.split()[:words])
    return {
        "messages": [
            {"role": "user", "content": f"How many stars does this review give, 1 to 5?\n\n{review}"},
            {"role": "assistant", "content": stars},
        ]
    }


def main() -> None:
    """Write a conversation for every review that has a text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reviews", type=Path)
    parser.add_argument("conversations", type=Path)
    parser.add_argument("--words", type=int, default=20)
    arguments = parser.parse_args()
    with arguments.reviews.open(encoding="utf-8", newline="") as file:
        rows = [
            conversation(row["text"], row["stars"], words=arguments.words)
            for row in csv.DictReader(file)
            if row["text"].strip()
        ]
    arguments.conversations.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    print(f"{len(rows)} conversations in {arguments.conversations}")


if __name__ == "__main__":
    main()
