"""Inputs that models are looked at with: arrays, texts, images, prompts, of any length."""
