"""Chat formats: from a conversation to the text a model reads, and from its output back.

Serving and training share this package. It knows no HTTP, no torch, no model weights.
"""
