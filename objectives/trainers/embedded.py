"""The embedded model: a small BERT with random weights and a tokenizer of whole words, so that a study needs no download.

The tokenizer takes its words from the training texts, so both work with any texts, not only with the generated reviews.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import BertConfig, PreTrainedTokenizerFast

MAX_VOCABULARY = 4096
_SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


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
    words = Counter(word for text in texts for word, _ in split.pre_tokenize_str(clean.normalize_str(text)))
    kept = sorted(words, key=lambda word: (-words[word], word))[: MAX_VOCABULARY - len(_SPECIAL_TOKENS)]
    vocabulary = {word: position for position, word in enumerate((*_SPECIAL_TOKENS, *kept))}
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
