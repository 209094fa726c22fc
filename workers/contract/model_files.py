"""Files of a model's directory that two processes know by name."""

from __future__ import annotations

VALUE_HEAD_FILE = "value_head.safetensors"
"""A reward model's head beside its causal model, in the layout of trl and LLaMA-Factory."""
