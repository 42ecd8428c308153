"""Suites of runs: what to run, running it so that nothing finished is lost, and showing what came out."""
