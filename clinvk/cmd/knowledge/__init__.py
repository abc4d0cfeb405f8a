"""Commands for what is added to prompts: notes, templates, skills."""
