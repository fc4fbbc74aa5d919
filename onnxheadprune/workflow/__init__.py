"""Choose, plan, apply, prove, write: what a command or a call does from end to end."""
