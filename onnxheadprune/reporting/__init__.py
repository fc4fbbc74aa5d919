"""What people see: tables and sentences, made of the same data that `--json` prints."""
