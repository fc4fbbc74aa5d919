"""One command or API call from end to end: choose, plan, apply, prove, write."""
