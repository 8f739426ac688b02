"""Which rows a probe takes of any data set."""

import datasets
import torch
from torch.utils.data import IterableDataset

from tradeoff.objectives.data.samples import first_rows, longest_rows, num_rows, ordinary_rows, row_lengths


class Items(torch.utils.data.Dataset):
    """A data set as torch knows it: items by number, and no columns."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, row):
        return self.items[row]


class Stream(IterableDataset):
    def __len__(self):
        return 3

    def __iter__(self):
        return iter([{"input_ids": [1]}] * 3)


def tokens(*lengths):
    return [list(range(length)) for length in lengths]


def lengths_in(dataset):
    return [len(dataset[row]["input_ids"]) for row in range(len(dataset))]


def test_the_longest_sequences_come_first_and_again_where_there_are_fewer():
    table = datasets.Dataset.from_dict({"input_ids": tokens(2, 5, 3)})
    assert lengths_in(longest_rows(table, 2)) == [5, 3]
    assert lengths_in(longest_rows(table, 4)) == [5, 3, 2, 5]
    assert lengths_in(longest_rows(table, 2, repeats=2)) == [5, 3, 5, 3]


def test_a_column_of_lengths_counts_before_the_tokens_that_padding_makes_equal():
    table = datasets.Dataset.from_dict({"input_ids": tokens(6, 6, 6), "length": [2, 6, 4]})
    assert row_lengths(table) == [2, 6, 4]
    assert [int(length) for length in longest_rows(table.with_format("torch"), 2)["length"]] == [6, 4]


def test_rows_that_were_picked_out_of_a_table_have_their_own_lengths():
    table = datasets.Dataset.from_dict({"input_ids": tokens(2, 5, 3)}).select([2, 0])
    assert row_lengths(table) == [3, 2]


def test_items_of_a_data_set_without_columns_tell_their_lengths():
    items = Items([{"input_ids": ids} for ids in tokens(2, 5, 3)])
    assert row_lengths(items) == [2, 5, 3]
    assert lengths_in(longest_rows(items, 2)) == [5, 3]


def test_a_transform_that_makes_the_tokens_when_they_are_read_tells_their_lengths():
    texts = datasets.Dataset.from_dict({"text": ["a b", "a b c d"]})
    texts.set_transform(lambda batch: {"input_ids": [text.split() for text in batch["text"]]})
    assert row_lengths(texts) == [2, 4]


def test_without_lengths_the_first_rows_are_taken():
    images = Items([{"pixel_values": torch.full((2,), float(row))} for row in range(3)])
    assert row_lengths(images) is None
    assert [float(item["pixel_values"][0]) for item in longest_rows(images, 2)] == [0, 1]


def test_where_the_first_item_tells_no_length_no_other_is_read():
    class Images(Items):
        def __getitem__(self, row):
            read.append(row)
            return super().__getitem__(row)

    read = []
    assert row_lengths(Images([{"pixel_values": [0.0]}] * 30)) is None
    assert read == [0]


def test_what_can_only_be_iterated_over_is_taken_as_it_is():
    stream = Stream()
    assert longest_rows(stream, 2) is stream
    assert ordinary_rows(stream, 2, seed=0) is stream


def test_ordinary_rows_are_in_a_random_order_that_the_seed_repeats():
    table = datasets.Dataset.from_dict({"input_ids": tokens(*range(1, 21))})
    rows = lengths_in(ordinary_rows(table, 40, seed=1))
    assert sorted(rows) == sorted([*range(1, 21)] * 2)
    assert rows == lengths_in(ordinary_rows(table, 40, seed=1)) != sorted(rows)
    assert len(ordinary_rows(table, 40, seed=1, repeat=False)) == 20


def test_several_evaluation_data_sets_are_taken_each():
    parts = {"a": Items([{"input_ids": ids} for ids in tokens(1, 2)]), "b": Items([{"input_ids": ids} for ids in tokens(4, 3)])}
    assert {name: lengths_in(part) for name, part in longest_rows(parts, 1).items()} == {"a": [2], "b": [4]}
    assert {name: lengths_in(part) for name, part in first_rows(parts, 1).items()} == {"a": [1], "b": [4]}
    assert num_rows(parts) == 4
