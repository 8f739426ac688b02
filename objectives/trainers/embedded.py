"""The embedded models: a small BERT and a small Llama with random weights, and tokenizers of words: no study needs a download.

The tokenizers take their words from the training texts, so they work with any texts, not only with the generated ones.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import BertConfig, LlamaConfig, PreTrainedTokenizerFast

MAX_VOCABULARY = 4096
_SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
_CHAT_TOKENS = ("<|pad|>", "<|unknown|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>")
# What TRL's `assistant_only_loss` learns is marked as generation.
_CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{ '<|' + message['role'] + '|>' }}
{%- if message['role'] == 'assistant' -%}
{%- generation -%}{{ message['content'] + '<|end|>' }}{%- endgeneration -%}
{%- else -%}
{{ message['content'] + '<|end|>' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|assistant|>' }}{%- endif -%}
"""


def embedded_model_config(*, vocab_size: int, max_length: int, num_labels: int) -> Any:
    """Return the configuration of the embedded model.

    Args:
        vocab_size: Number of words that the tokenizer knows.
        max_length: Tokens of the longest sequence.
        num_labels: Number of classes.
    """
    return BertConfig(
        vocab_size=vocab_size,
        max_position_embeddings=max_length,
        num_labels=num_labels,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        # With BERT's own 0.02 a narrow model spends its first epochs near zero.
        initializer_range=0.1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=0,
    )


def embedded_tokenizer(texts: Iterable[str]) -> Any:
    """Build a tokenizer of lower-case words and punctuation marks.

    Args:
        texts: The source of its words, which are taken by frequency.
    """
    split = pre_tokenizers.BertPreTokenizer()
    clean = normalizers.BertNormalizer(lowercase=True)
    vocabulary = _vocabulary(
        _SPECIAL_TOKENS, (word for text in texts for word, _ in split.pre_tokenize_str(clean.normalize_str(text)))
    )
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = clean
    tokenizer.pre_tokenizer = split
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def embedded_llama_config(*, vocab_size: int, max_length: int) -> Any:
    """Return the configuration of the embedded language model.

    Args:
        vocab_size: Number of words that the tokenizer knows.
        max_length: Tokens of the longest sequence.
    """
    return LlamaConfig(
        vocab_size=vocab_size,
        max_position_embeddings=max_length,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=128,
        initializer_range=0.1,
        tie_word_embeddings=True,
        pad_token_id=_CHAT_TOKENS.index("<|pad|>"),
        bos_token_id=None,
        eos_token_id=_CHAT_TOKENS.index("<|end|>"),
    )


def embedded_chat_tokenizer(texts: Iterable[str]) -> Any:
    """Build a tokenizer of words, each with the space before it, and of marks, whose tokens give back a text as it was.

    Args:
        texts: The source of its words, which are taken by frequency.
    """
    split = pre_tokenizers.Split(Regex(r" ?\w+| ?[^\w\s]|\s"), behavior="isolated")
    vocabulary = _vocabulary(_CHAT_TOKENS, (word for text in texts for word, _ in split.pre_tokenize_str(text)))
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<|unknown|>"))
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        unk_token="<|unknown|>",
        eos_token="<|end|>",
        additional_special_tokens=list(_CHAT_TOKENS[3:]),
        chat_template=_CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def _vocabulary(special: tuple[str, ...], words: Iterable[str]) -> dict[str, int]:
    """Return the numbers of the special tokens and, after them, of the most frequent words."""
    counts = Counter(words)
    kept = sorted(counts, key=lambda word: (-counts[word], word))[: MAX_VOCABULARY - len(special)]
    return {word: position for position, word in enumerate((*special, *kept))}
