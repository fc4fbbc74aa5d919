"""Parts of other tools that head pruning becomes: each is imported only when that tool asks for it."""
