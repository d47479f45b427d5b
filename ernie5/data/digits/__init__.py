"""The digit world: pictures and films of real handwritten digits, with questions, answers and requests."""
