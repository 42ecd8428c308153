"""Game theory on payoff tables: exact values and solution concepts, no learning inside."""
