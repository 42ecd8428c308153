"""What was learned: social outcome metrics of episodes and aggregate statistics of runs."""
