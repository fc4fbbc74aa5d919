"""Jobs: all steps from an exported model to a yes or no, described in one file, resumed where they stopped."""
