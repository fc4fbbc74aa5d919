"""The kept tokens, and everything of a folder that follows: tokenizer, configuration, data."""
