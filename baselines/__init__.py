"""The learners. Each file reads like its paper's algorithm box; `registry` knows them by name."""
