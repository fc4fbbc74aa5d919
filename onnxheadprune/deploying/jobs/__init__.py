"""Jobs: all steps from an exported model to a verdict, described in one file, resumed after interruptions."""
