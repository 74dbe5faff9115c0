"""The model: loading, prompts, adapters, cached vision features, logits at answer positions."""
