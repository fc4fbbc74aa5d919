"""What else dies: live sets, rules per operator, the reverse sweep, and the edits it calls for."""
