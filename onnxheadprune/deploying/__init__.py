"""Folders of runtimes, what their clients ask for, jobs and batches."""
