"""Networks of other projects: their weights and graphs become artifacts of ours."""
