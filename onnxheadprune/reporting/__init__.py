"""Tables and sentences for people, made of the same data that `--json` prints."""
