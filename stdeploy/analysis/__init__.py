"""What the filters of a network do in time: the paper's analysis (sections 2.1 and 5)."""
