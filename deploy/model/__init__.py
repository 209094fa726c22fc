"""The bundled model tuneyard-mini and how it is made: text, tokenizer, training, acceptance."""
