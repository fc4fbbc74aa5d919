"""`validate`: is the pruned model equal to the original with silenced heads?"""
