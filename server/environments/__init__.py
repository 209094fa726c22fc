"""The environments of engines that cannot share ours: made by one command, found, and checked.

vLLM and SGLang pin torch, transformers and fastapi against each other and against us, so each gets
a virtual environment of its own. Of Tuneyard it holds the workers, the contract and the chat
formats, and no server.
"""
