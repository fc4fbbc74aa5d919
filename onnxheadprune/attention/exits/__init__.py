"""Early exits: conditions that decide whether further layers run, and models with one permanent exit."""
