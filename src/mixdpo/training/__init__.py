"""Training by a plan. `step.py` is the file to read first, `trainer.py` what runs it."""
