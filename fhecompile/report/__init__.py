"""Reports for people: what a plan costs, layer by layer."""
