"""Early exits: conditions that decide whether further layers run, and what a model is where one exit is for good."""
