"""Tiny tokenizers with the quirks of real ones, trained in a moment."""

from __future__ import annotations

import json

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

TEXTS = [
    "You are a helpful assistant. The weather in Beijing is nice today, isn't it?",
    "system user assistant tool function call <tool_call> </tool_call> <think> </think>",
    "<|im_start|> <|im_end|> [INST] [/INST] <<SYS>> 你好 很高兴认识你 北京 21°C",
    '{"name": "get_weather", "arguments": {"city": "Beijing", "days": 2}}',
] * 4

CHAT_WORDS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
PLAIN_WORDS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
THINK_WORDS = ("<think>", "</think>")


def byte_level_tokenizer() -> PreTrainedTokenizerFast:
    """As Qwen's: byte-level BPE; call and thinking marks are added but not special."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=list(CHAT_WORDS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in PLAIN_WORDS + THINK_WORDS])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>")


def metaspace_tokenizer(prepend: str = "first") -> PreTrainedTokenizerFast:
    """As Llama 2's and Mistral's: spaces as ▁, one put before the first word."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend, split=False)
    tokenizer.decoder = decoders.Metaspace()
    bytes_pieces = [f"<0x{value:02X}>" for value in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=["<unk>", "<s>", "</s>", *bytes_pieces],
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    fields = json.loads(tokenizer.to_str())
    fields["added_tokens"] = fields["added_tokens"][:3]
    tokenizer = Tokenizer.from_str(json.dumps(fields))
    tokenizer.add_special_tokens(["[INST]", "[/INST]"])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def adding_tokenizer(template: str = "<s> $A") -> PreTrainedTokenizerFast:
    """As Llama's: a text that is tokenised begins with a BOS."""
    tokenizer = metaspace_tokenizer()
    backend = tokenizer.backend_tokenizer
    ids = [(word, backend.token_to_id(word)) for word in ("<s>", "</s>")]
    backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def stripping_tokenizer() -> PreTrainedTokenizerFast:
    """As Phi-3's: role tokens swallow the white space after them."""
    tokenizer = byte_level_tokenizer().backend_tokenizer
    tokenizer.add_special_tokens(
        [AddedToken(w, rstrip=True, normalized=False) for w in ("<|user|>", "<|assistant|>")]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>")


def unigram_tokenizer() -> PreTrainedTokenizerFast:
    """As T5's and XLNet's: the model's own vocabulary lists its control words as pieces."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=300,
        special_tokens=["<unk>", "<s>", "</s>", "<sep>"],
        unk_token="<unk>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
