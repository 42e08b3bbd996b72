"""The demo: a small real model, prompts with demands a program can check, and preference pairs made from both."""
