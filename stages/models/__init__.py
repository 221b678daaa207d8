"""What a model is and how it speaks: files, families, names, chat templates."""
