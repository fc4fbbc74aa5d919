"""`bench`: is the pruned model faster, by how much, and how much could it be?"""
