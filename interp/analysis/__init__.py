"""What a run of checkpoints says, and how sure one can be. Arrays in, arrays out; nothing here runs a model."""
