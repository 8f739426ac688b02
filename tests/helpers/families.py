"""Small models of ten families with random weights, saved as public checkpoints are, each with its family's own tokenizer."""

import copy
from dataclasses import dataclass
from pathlib import Path

import transformers
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, set_seed

from tradeoff.objectives.data.reviews import generate_reviews

_TOKENS = 400
_SPECIAL_TOKENS = ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")
_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


@dataclass(frozen=True)
class Family:
    """What a family is made of: its public checkpoints are of this class, and have this tokenizer."""

    model: type[PreTrainedModel]
    tokenizer: type[PreTrainedTokenizerBase]
    config: PreTrainedConfig


def save(name: str, folder: Path) -> Path:
    """Saves a model of a family with the tokenizer that it has after reading the generated reviews."""
    family = FAMILIES[name]
    texts = [review.text for review in generate_reviews(200, seed=0)]
    tokenizer = family.tokenizer().train_new_from_iterator(texts, vocab_size=_TOKENS)
    tokenizer.save_pretrained(folder)
    config = copy.deepcopy(family.config)
    for token in _SPECIAL_TOKENS:
        setattr(config, token, getattr(tokenizer, token))
    set_seed(0)
    family.model(config).save_pretrained(folder)
    return folder


# GPT-2's and Llama's tokenizers have no token for padding.
FAMILIES = {
    "bert": Family(
        transformers.BertForMaskedLM,
        transformers.BertTokenizer,
        transformers.BertConfig(**_SIZES, vocab_size=_TOKENS, max_position_embeddings=64),
    ),
    "distilbert": Family(
        transformers.DistilBertForMaskedLM,
        transformers.DistilBertTokenizer,
        transformers.DistilBertConfig(
            dim=32, n_layers=2, n_heads=2, hidden_dim=64, vocab_size=_TOKENS, max_position_embeddings=64
        ),
    ),
    "roberta": Family(
        transformers.RobertaForMaskedLM,
        transformers.RobertaTokenizer,
        transformers.RobertaConfig(**_SIZES, vocab_size=_TOKENS, max_position_embeddings=66),
    ),
    "albert": Family(
        transformers.AlbertForMaskedLM,
        transformers.AlbertTokenizer,
        transformers.AlbertConfig(**_SIZES, embedding_size=16, vocab_size=_TOKENS, max_position_embeddings=64),
    ),
    "electra": Family(
        transformers.ElectraForPreTraining,
        transformers.ElectraTokenizer,
        transformers.ElectraConfig(**_SIZES, embedding_size=16, vocab_size=_TOKENS, max_position_embeddings=64),
    ),
    "deberta-v2": Family(
        transformers.DebertaV2ForMaskedLM,
        transformers.DebertaV2Tokenizer,
        transformers.DebertaV2Config(
            **_SIZES,
            vocab_size=_TOKENS,
            max_position_embeddings=64,
            relative_attention=True,
            position_buckets=16,
            norm_rel_ebd="layer_norm",
            share_att_key=True,
            pos_att_type=["p2c", "c2p"],
            position_biased_input=False,
            type_vocab_size=0,
        ),
    ),
    "modernbert": Family(
        transformers.ModernBertForMaskedLM,
        transformers.RobertaTokenizer,
        transformers.ModernBertConfig(**_SIZES, vocab_size=_TOKENS, max_position_embeddings=64),
    ),
    "gpt2": Family(
        transformers.GPT2LMHeadModel,
        transformers.GPT2Tokenizer,
        transformers.GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=_TOKENS, n_positions=64),
    ),
    "llama": Family(
        transformers.LlamaForCausalLM,
        transformers.LlamaTokenizer,
        transformers.LlamaConfig(**_SIZES, vocab_size=_TOKENS, max_position_embeddings=64),
    ),
    "t5": Family(
        transformers.T5ForConditionalGeneration,
        transformers.T5Tokenizer,
        transformers.T5Config(
            d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, vocab_size=_TOKENS, decoder_start_token_id=0
        ),
    ),
}
