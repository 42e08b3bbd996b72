"""Prompts to answers: a local model or an OpenAI-compatible endpoint, sampling, answers finished or cut."""
