from transformers import AutoTokenizer, LlamaForCausalLM

from tradeoff.objectives.trainers.embedded import (
    MAX_VOCABULARY,
    embedded_chat_tokenizer,
    embedded_llama_config,
    embedded_model_config,
    embedded_tokenizer,
)
from tradeoff.objectives.trainers.samples.reviews_tokenizer import reviews_tokenizer


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


CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Rate the soup:\nit was  not bad!"},
    {"role": "assistant", "content": "4 stars."},
]
CHAT_TEXTS = [message["content"] for message in CHAT]


def test_the_tokens_of_a_chat_give_it_back_as_it_was_and_mark_the_answer():
    tokenizer = embedded_chat_tokenizer(CHAT_TEXTS)
    text = "<|system|>Be brief.<|end|><|user|>Rate the soup:\nit was  not bad!<|end|><|assistant|>4 stars.<|end|>"
    assert tokenizer.apply_chat_template(CHAT, tokenize=False) == text
    tokens = tokenizer.apply_chat_template(CHAT, return_dict=True, return_assistant_tokens_mask=True)
    assert tokenizer.decode(tokens["input_ids"]) == text
    answer = [token for token, is_answer in zip(tokens["input_ids"], tokens["assistant_masks"], strict=True) if is_answer]
    assert tokenizer.convert_ids_to_tokens(answer) == ["4", " stars", ".", "<|end|>"]


def test_an_answer_is_asked_for_by_the_token_before_it():
    tokenizer = embedded_chat_tokenizer(CHAT_TEXTS)
    asked = tokenizer.apply_chat_template(CHAT[1:2], tokenize=False, add_generation_prompt=True)
    assert asked.endswith("bad!<|end|><|assistant|>")


def test_a_word_that_the_chat_tokenizer_does_not_know_is_one_token():
    tokenizer = embedded_chat_tokenizer(CHAT_TEXTS)
    assert tokenizer.convert_ids_to_tokens(tokenizer("Rate the salad<|end|>")["input_ids"]) == [
        "Rate", " the", "<|unknown|>", "<|end|>"
    ]  # fmt: skip
    assert len(embedded_chat_tokenizer(f"word{number}" for number in range(MAX_VOCABULARY + 100))) == MAX_VOCABULARY


def test_a_saved_chat_tokenizer_is_loaded_as_any_other(tmp_path):
    tokenizer = embedded_chat_tokenizer(CHAT_TEXTS)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    options = {"return_dict": True, "return_assistant_tokens_mask": True}
    tokens = loaded.apply_chat_template(CHAT, **options)
    assert tokens == tokenizer.apply_chat_template(CHAT, **options)
    assert loaded.decode(tokens["input_ids"], skip_special_tokens=True) == "".join(CHAT_TEXTS)
    assert (loaded.pad_token_id, loaded.eos_token) == (0, "<|end|>")


def test_the_llama_is_small_and_knows_the_special_tokens():
    tokenizer = embedded_chat_tokenizer(CHAT_TEXTS)
    config = embedded_llama_config(vocab_size=300, max_length=48)
    assert (config.vocab_size, config.max_position_embeddings) == (300, 48)
    assert (config.pad_token_id, config.eos_token_id) == (tokenizer.pad_token_id, tokenizer.eos_token_id)
    assert 50_000 < LlamaForCausalLM(config).num_parameters() < 300_000
