"""What users can set, declared once: options, keys of jobs, keywords and their documentation are made of it."""
