"""Grid worlds, each a file of rules on `marl_suite.envs.grid`."""
