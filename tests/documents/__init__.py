"""The documentation says what happens: every block of code runs, and prints what stands below it."""
