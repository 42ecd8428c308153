"""The parts learners are made of: pure functions without state of their own."""
