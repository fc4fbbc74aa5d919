"""What a model computes on the user's data: feeds, activations as second moments, and drift."""
