"""Which tokens are kept, and everything of a folder that follows: tokenizer, configuration, data."""
