"""The shape of tuneyard-mini: a small Qwen3 that Hugging Face, vLLM and SGLang load as it is."""

from __future__ import annotations

from transformers import GenerationConfig, Qwen3Config

CONTEXT_LENGTH = 2048
VOCAB_SIZE = 3584


def model_config(eos_token_id: int, pad_token_id: int) -> Qwen3Config:
    return Qwen3Config(
        architectures=["Qwen3ForCausalLM"],
        vocab_size=VOCAB_SIZE,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=CONTEXT_LENGTH,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=eos_token_id,
        pad_token_id=pad_token_id,
        # Rows of the tied embedding near length one, so that a token can be copied early on.
        initializer_range=0.07,
        dtype="bfloat16",
    )


def generation_config(eos_token_id: int, pad_token_id: int) -> GenerationConfig:
    """What the model's maker advises; requests override it."""
    return GenerationConfig(
        do_sample=True,
        temperature=0.7,
        top_p=0.9,
        eos_token_id=[eos_token_id],
        pad_token_id=pad_token_id,
    )
