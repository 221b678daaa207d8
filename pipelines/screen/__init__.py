"""What a person sees on a terminal while a run goes on, and of its plan and results."""
