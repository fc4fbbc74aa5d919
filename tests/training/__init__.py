"""Recovery: the pruned model learns from the original."""
