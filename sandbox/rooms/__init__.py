"""What runs inside the rooms that hold a model's code."""
