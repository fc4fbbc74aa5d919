"""A read-only, navigable view of a model, and its symbolic shapes."""
