"""Programs that a model wrote, run in isolation, many at once: what each gave, or the name of its failure."""
