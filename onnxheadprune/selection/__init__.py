"""Which heads go? Legal paths, their costs, and the cheapest choice across sites."""
