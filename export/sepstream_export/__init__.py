"""sepstream_export: a checkpoint becomes a bundle, with proof that both compute the same, and scores of what is heard."""
