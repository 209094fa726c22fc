"""Anthropic's Messages API, over the same requests and plans as chat."""
