"""The selection that meets a target: trial cuts, refits, recovery, timing."""
