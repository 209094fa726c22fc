"""A byte-level BPE tokenizer of Qwen's shape, trained on the model's own text."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.trainers import BpeTrainer

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
"""Never part of decoded text."""
ADDED_TOKENS = (
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
)
"""One token each, but text: Qwen's tokenizers decode them, and parsers need them."""

# Qwen2's pre-tokenizer with two changes that make copying easier: a word with a capital never takes
# in the space before it, so that a name is the same token in a sentence and in JSON, and digits go
# in pairs, so that numbers below a hundred are one token.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|\p{Lu}\p{L}*|[^\r\n\p{L}\p{N}]?[^\P{L}\p{Lu}]\p{L}*|\p{N}{1,2}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

_MIN_WORD_COUNT = 12


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """`vocab_size` counts the added tokens, which get the highest ids.

    Words seen fewer than `_MIN_WORD_COUNT` times are not learnt from: made-up words stay in small
    pieces, which are easier to copy one after another.
    """
    tokenizer = Tokenizer(models.BPE(byte_fallback=False))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    num_added = len(SPECIAL_TOKENS) + len(ADDED_TOKENS)
    trainer = BpeTrainer(
        vocab_size=vocab_size - num_added,
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    counts = _word_counts(texts)
    frequent = (word for word, n in counts.items() if n >= _MIN_WORD_COUNT for _ in range(n))
    tokenizer.train_from_iterator(frequent, trainer)
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in SPECIAL_TOKENS])
    tokenizer.add_tokens(
        [AddedToken(text, special=False, normalized=False) for text in ADDED_TOKENS]
    )
    return tokenizer


def _word_counts(texts: Iterable[str]) -> Counter[str]:
    split = pre_tokenizers.Split(Regex(_WORDS), behavior="isolated")
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(piece for piece, _ in split.pre_tokenize_str(text))
    return counts


def save_tokenizer(tokenizer: Tokenizer, folder: Path, chat_template: str, max_len: int) -> None:
    """Writes `tokenizer.json` and `tokenizer_config.json`, the chat template within."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "bos_token": None,
        "chat_template": chat_template,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": max_len,
        "pad_token": "<|endoftext|>",
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": None,
    }
    text = json.dumps(config, ensure_ascii=False, indent=2) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
