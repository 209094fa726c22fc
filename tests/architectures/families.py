"""A tiny random model of every family of causal language models in transformers.

Sizes go by the names that configs have for them; a family whose config wants more says what in
`CHANGES`. Windows and chunks are narrow, so that prompts of tests cross them.
"""

from __future__ import annotations

from typing import Any

from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

NOT_BUILT = {
    "blt": "its hash embeddings make its smallest model too large for a test",
    "cohere_compass_text": "transformers builds it with a pooling head only",
    "dbrx": "its config in transformers lacks what its model reads (rope_theta)",
    "dots3_note": "its config cannot be made small: its layers differ by their numbers",
    "dots3_note_text": "its config cannot be made small: its layers differ by their numbers",
    "emu3": "its model for text is not saved in a form that transformers loads again",
    "gemma3n": "it needs the package timm",
    "gemma3n_text": "its config cannot be made small: its layers share keys by their numbers",
    "gemma4": "its config cannot be made small: its layers differ by their numbers",
    "gemma4_assistant": "it only drafts for another model",
    "gemma4_text": "its config cannot be made small: its layers differ by their numbers",
    "gemma4_unified": "its config cannot be made small: its layers differ by their numbers",
    "gemma4_unified_assistant": "it only drafts for another model",
    "gemma4_unified_text": "its config cannot be made small: its layers differ by their numbers",
    "got_ocr2": "its smallest model is too large for a test",
    "mllama": "its model for text is not saved in a form that transformers loads again",
    "musicgen": "it generates sound from a text encoder's states",
    "musicgen_melody": "it generates sound from a text encoder's states",
    "phi4_multimodal": "its smallest model is too large for a test",
    "qwen4_exp": "its config names no sizes for its indexer",
    "qwen4_exp_text": "its config names no sizes for its indexer",
    "reformer": "its axial positions want prompts of certain lengths",
    "xlstm": "its config cannot be made small: its sizes follow from each other",
    "xlm": "its smallest model is too large for a test",
}
"""Why there is no tiny model of a family here."""

FAMILIES = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
WINDOW = 12
_HIDDEN, _HEADS, _HEAD_SIZE, _MLP, _LAYERS = 64, 4, 16, 96, 4

_SIZES: dict[str, int] = {
    "vocab_size": 448,
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "embed_dim", "dim_model"), _HIDDEN),
    **dict.fromkeys(("embedding_size", "word_embed_proj_dim", "projection_dim"), _HIDDEN),
    **dict.fromkeys(("intermediate_size", "d_ff", "ffn_dim", "n_inner", "d_inner"), _MLP),
    **dict.fromkeys(("decoder_ffn_dim", "encoder_ffn_dim", "ffn_hidden_size", "dim_ff"), _MLP),
    **dict.fromkeys(("dff", "intermediate_size_mlp", "prefix_dense_intermediate_size"), _MLP),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 32),
    **dict.fromkeys(("expert_ffn_hidden_size", "shared_intermediate_size"), 32),
    **dict.fromkeys(("moe_shared_expert_intermediate_size",), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), _LAYERS),
    **dict.fromkeys(("decoder_layers", "encoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), _HEADS),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads"), _HEADS),
    **dict.fromkeys(("num_key_value_heads", "multi_query_group_num"), 2),
    **dict.fromkeys(("head_dim", "attention_head_dim", "dim_head", "rotary_dim"), _HEAD_SIZE),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "num_experts_per_token"), 2),
    **dict.fromkeys(("n_shared_experts", "num_shared_experts"), 1),
    **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace"), 1),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "v_head_dim"), _HEAD_SIZE),
    **dict.fromkeys(("qk_head_dim",), 24),
    "qk_rope_head_dim": 8,
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx"), 128),
    **dict.fromkeys(("sliding_window", "attention_chunk_size", "window_size"), WINDOW),
    "original_max_position_embeddings": 128,
    **dict.fromkeys(("mamba_d_state", "state_size", "ssm_state_size"), 8),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads"), 8),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim"), _HEAD_SIZE),
    **dict.fromkeys(("mamba_chunk_size", "chunk_size"), 8),
    **dict.fromkeys(("time_step_rank", "mamba_dt_rank"), 8),
    **dict.fromkeys(("linear_num_key_heads",), 2),
    **dict.fromkeys(("linear_num_value_heads",), _HEADS),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), _HEAD_SIZE),
    **dict.fromkeys(("lru_width", "router_hidden_size"), _HIDDEN),
    **dict.fromkeys(("index_topk", "index_topk_blocks", "index_block_size"), 8),
    **dict.fromkeys(("index_head_dim",), _HEAD_SIZE),
    **dict.fromkeys(("index_n_heads",), _HEADS),
    **dict.fromkeys(("dense_intermediate_size",), _MLP),
}
_TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}

_MIXED = ["linear_attention", "full_attention"] * 2
CHANGES: dict[str, dict[str, Any]] = {
    "bailing_hybrid": {"linear_head_dim": _HEAD_SIZE, "n_group": 1, "topk_group": 1},
    "bamba": {"attn_layer_indices": [1, 3]},
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_theta": 10000.0}}},
    "deepseek_v2": {"num_experts_per_tok": 2, "topk_method": "greedy"},
    "deepseek_v4": {"o_lora_rank": 16, "o_groups": 2},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "falcon_h1": {"mamba_d_ssm": 128},
    "gpt_neo": {
        "attention_types": [[["global", "local"], 2]],
        "attention_layers": ["global", "local"] * 2,
    },
    "granitemoehybrid": {"layer_types": _MIXED},
    "hrm_text": {"num_layers_per_stack": 1, "num_hidden_layers": 8},
    "hunyuan_v1_dense": {"head_dim": _HEAD_SIZE},
    "hunyuan_v1_moe": {"head_dim": _HEAD_SIZE},
    "inkling2_text": {
        "swa_head_dim": 16,
        "sliding_window_size": WINDOW,
        "rel_extent": 32,
        "unpadded_vocab_size": 448,
    },
    "inkling_text": {"swa_head_dim": 16, "sliding_window_size": WINDOW, "rel_extent": 32},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2},
    "kimi_linear": {"linear_head_dim": _HEAD_SIZE},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "longcat_flash": {"zero_expert_num": 2},
    "mamba2": {"num_heads": 8, "head_dim": _HEAD_SIZE},
    "marian": {"decoder_vocab_size": 448, "decoder_start_token_id": 0},
    "ministral": {"head_dim": _HEAD_SIZE},
    "moshi": {"sliding_window": 128},
    "nemotron": {"num_key_value_heads": 2},
    "reformer": {"is_decoder": True, "axial_pos_embds_dim": [32, 32], "axial_pos_shape": [8, 16]},
    "roc_bert": {"pronunciation_embed_dim": 16, "shape_embed_dim": 16, "shape_vocab_size": 64},
    "rwkv": {"attention_hidden_size": _HIDDEN},
    "xlnet": {"d_head": _HEAD_SIZE},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"attention_hidden_size": 128, "attention_head_dim": 32, "mamba_dt_rank": 8},
    "zamba2": {
        "attention_hidden_size": 128,
        "attention_head_dim": 32,
        "mamba_headdim": 16,
        "kv_channels": 16,
        "hybrid_layer_ids": [1, 3],
        "adapter_rank": 8,
    },
    "zaya": {"num_experts_per_tok": 1},
}
"""Given to a family's config beside the sizes."""


def tiny_config(family: str) -> Any:
    """Raises what the config raises."""
    config = CONFIG_MAPPING[family]()
    _shrink(config)
    for name, value in CHANGES.get(family, {}).items():
        setattr(config, name, value)
    return config


def _shrink(config: Any) -> None:
    num_layers = getattr(config, "num_hidden_layers", None)
    for name, value in list(vars(config).items()):
        if hasattr(value, "to_dict"):
            _shrink(value)
        elif isinstance(value, int) and not isinstance(value, bool):
            size = _SIZES.get(name, _TOKENS.get(name))
            if size is not None:
                setattr(config, name, size)
    if isinstance(num_layers, int):
        _shrink_lists(config, num_layers)
    if hasattr(config, "qk_rope_head_dim"):
        config.head_dim, config.num_key_value_heads = 8, _HEADS


def _shrink_lists(config: Any, num_layers: int) -> None:
    """Of what each layer is: all kinds that there are, as long as there is room."""
    for name, value in list(vars(config).items()):
        if isinstance(value, list) and len(value) == num_layers:
            distinct = list(dict.fromkeys(value))
            setattr(config, name, [distinct[n % len(distinct)] for n in range(_LAYERS)])
