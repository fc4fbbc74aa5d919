"""Making up for removed heads: closed-form refits of what is left."""
