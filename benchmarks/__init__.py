"""How fast the suite is, and the published tables as suites to run again."""
