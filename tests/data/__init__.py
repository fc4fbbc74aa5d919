"""Calibration data for decoders: prompts, states of encoders, and what lies beside a model."""
