"""Programs that break real clusters: pulls through faults, disturbed crowds, the drill, a rogue."""
