"""`python -m marl_suite`."""

from marl_suite.cli import main

main()
