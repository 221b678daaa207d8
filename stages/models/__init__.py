"""What a model is and how it speaks: where it is stored, its files and family, its chat format."""
