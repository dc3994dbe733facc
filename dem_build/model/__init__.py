"""Models and tokenizers as torch and transformers have them: what several actions share."""
