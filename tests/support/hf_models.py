"""Small language models of Hugging Face."""

from transformers import BertConfig, GPT2Config, GPT2LMHeadModel

from support.models import ROWS, WIDTH


def gpt2_config(rows: int = ROWS, width: int = WIDTH) -> GPT2Config:
    return GPT2Config(
        vocab_size=rows,
        n_positions=16,
        n_embd=width,
        n_layer=1,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
    )


def bert_config() -> BertConfig:
    return BertConfig(
        vocab_size=ROWS,
        hidden_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=WIDTH,
        max_position_embeddings=16,
    )


def gpt2() -> GPT2LMHeadModel:
    return GPT2LMHeadModel(gpt2_config())
