"""How the embedded model is made: tokenizer and architecture, vision tower first, then projector
and language model."""
