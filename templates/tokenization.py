"""Segments to token ids, the one way used by engines and trainers alike.

Takes a `tokenizers.Tokenizer`-backed Hugging Face fast tokenizer (or any tokenizer with
`encode(text, add_special_tokens=False)`) without importing either.
"""
