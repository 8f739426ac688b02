from transformers import AutoTokenizer

from tradeoff.objectives.trainers.embedded import MAX_VOCABULARY, embedded_model_config, embedded_tokenizer
from tradeoff.objectives.trainers.reviews_tokenizer import reviews_tokenizer


def test_words_and_punctuation_marks_are_tokens_between_the_special_ones():
    tokenizer = embedded_tokenizer(["The soup was not bad!"])
    assert tokenizer.convert_ids_to_tokens(tokenizer("Not bad, the soup!")["input_ids"]) == [
        "[CLS]", "not", "bad", "[UNK]", "the", "soup", "!", "[SEP]"
    ]  # fmt: skip


def test_frequent_words_come_first_and_ties_are_in_the_order_of_the_alphabet():
    tokenizer = embedded_tokenizer(["b a c", "c"])
    assert tokenizer.convert_ids_to_tokens([4, 5, 6]) == ["c", "a", "b"]


def test_the_vocabulary_is_bounded():
    assert len(embedded_tokenizer([" ".join(f"word{number}" for number in range(MAX_VOCABULARY + 100))])) == MAX_VOCABULARY


def test_the_reviews_tokenizer_knows_every_word_of_a_generated_review():
    tokenizer = reviews_tokenizer()
    assert (
        tokenizer.unk_token_id
        not in tokenizer("On our first visit the food was terrible but now it is not bad at all.")["input_ids"]
    )


def test_a_saved_tokenizer_is_loaded_as_any_other(tmp_path):
    tokenizer = embedded_tokenizer(["the soup was not bad"])
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded("the bad soup")["input_ids"] == tokenizer("the bad soup")["input_ids"]
    assert (loaded.pad_token, loaded.pad_token_id) == ("[PAD]", 0)


def test_the_model_is_as_large_as_its_job_asks():
    config = embedded_model_config(vocab_size=300, max_length=48, num_labels=3)
    assert (config.vocab_size, config.max_position_embeddings, config.num_labels) == (300, 48, 3)
    assert config.hidden_size % config.num_attention_heads == 0
