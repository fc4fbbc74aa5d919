"""Results as values and their plain writers: facts, words for numbers and names, HTML, Markdown."""
