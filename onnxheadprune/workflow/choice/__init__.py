"""Which units go, for a wish: cutting on trial, refitting, recovering, timing."""
