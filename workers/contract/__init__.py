"""The messages between Tuneyard's processes, their codec and version. A leaf: msgspec only."""
