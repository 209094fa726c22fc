"""One run that tells everything about a card: `make gpu`."""
