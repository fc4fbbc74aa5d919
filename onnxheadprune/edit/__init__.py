"""What changes: edits as values, the plan, and the only code that carries it out."""
