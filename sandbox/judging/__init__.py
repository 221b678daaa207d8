"""One job: its rooms, its clock, its verdict."""
