"""The user's inputs for models: arrays, texts, images and prompts, of any length."""
