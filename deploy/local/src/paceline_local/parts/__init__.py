"""The parts of the stack, one module each."""
