"""Which heads there are, which of them may go, the plan of a cut, and the masked reference."""
