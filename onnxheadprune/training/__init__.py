"""Recovery by distillation: what is left of a model learns from the original."""
