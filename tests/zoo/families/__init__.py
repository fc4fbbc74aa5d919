"""Architectures of the zoo: tables of arguments, and modules that are written here."""
