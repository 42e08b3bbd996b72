"""The demo: a small real model, prompts with constraints that a program can verify, and pairs made from both."""
