"""Selection of heads: legal paths, their costs, and the cheapest choice across sites."""
