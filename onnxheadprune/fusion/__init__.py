"""Attention of a site rewritten into one fused operator."""
